"""Which build of torch the environment gets; for `setup_environment`.

Standard library only, as there.
"""

from __future__ import annotations

from pathlib import Path

from borrowed_packages import SetupError
from setup_commands import ask, importable, pip, run, say

TORCH = ("torch>=2.4", "torchvision>=0.19")
# The PyTorch project's own index of builds without CUDA: https://pytorch.org/get-started/locally.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def install_torch(python: Path, index: str | None) -> None:
    """Install torch and torchvision; nothing happens where they are there.

    Args:
        python: of the environment.
        index: where builds without CUDA lie; None takes what pip takes by itself.

    Raises:
        SetupError: pip failed, or a build with CUDA is there already and one without is wanted.
    """
    if index is None:
        say("installing torch and torchvision (the largest part: minutes, some GB)")
        run(pip(python, "install", *TORCH), "installing torch")
        return
    refuse_cuda_build(python)
    say(f"installing torch and torchvision without CUDA, from {index}")
    try:
        run(pip(python, "install", "--index-url", index, *TORCH), "installing torch")
    except SetupError as error:
        raise SetupError(
            f"torch without CUDA could not be had from {index} (see above); leave TORCH=cpu out to"
            " take the usual build, which is some GB larger and works on a CPU too"
        ) from error


def refuse_cuda_build(python: Path) -> None:
    """Refuse an environment whose torch has CUDA: pip would take it for what is wanted.

    Raises:
        SetupError: saying what to do.
    """
    if importable(python, "torch"):
        version = ask(python, "import torch; print(torch.version.cuda)")
        if version not in (None, "None"):
            raise SetupError(
                f"the environment has a torch with CUDA {version} already: remove its folder to"
                " make it anew without"
            )
