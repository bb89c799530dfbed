"""No network gives a wrong gradient or crashes, whatever its width and whatever the CPU's instructions."""
import os
import subprocess
import sys

import pytest
from conftest import ROOT

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # as on a CPU without AVX-512


@pytest.mark.skipif(sys.platform != "linux", reason="a process a case is cheap only where torch can be forked")
@pytest.mark.parametrize("instructions", [{}, AVX2], ids=["this_machine", "AVX2"])
def test_gradients_are_right_and_nothing_crashes(instructions):
    result = subprocess.run([sys.executable, str(ROOT / "tests/gradients.py")], capture_output=True, text=True,
                            timeout=300, env=os.environ | instructions)
    cases = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    assert len(cases) == 60, result.stderr
    # Up to 0.02 are right: of two nearly equal pixels a max pooling may take either.
    wrong = [f"{name} at width {width}: {error}" for name, width, error in cases
             if error.startswith("signal") or not float(error) < 0.05]
    assert not wrong, result.stderr
