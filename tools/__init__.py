"""Programs for users; run them as ``python tools/NAME.py``, or by their console commands.

The folder is installed as the package ``panoptic_tools``, and programs that share code import it
under that name.
"""
