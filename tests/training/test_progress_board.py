"""The actor that training runs write their progress to is a process of its own, so it must start fast."""

import subprocess
import sys


def test_the_boards_process_loads_no_torch() -> None:
    code = "import sys, sio_ray.training.board; print(*sorted({'torch', 'ray', 'numpy', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
