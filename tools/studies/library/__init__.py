"""What the studies share: measuring, queues of trainings, tables over seeds."""
