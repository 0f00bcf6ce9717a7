"""A process whose output nobody reads any more."""

import subprocess
import sys

TALKS = """
import sys, time
from rich.console import Console
from tasks.output import outlive_readers
outlive_readers()
outlive_readers()
console = Console(file=sys.stderr)
console.print("begun")
sys.stdin.readline()
time.sleep(0.5)
for _ in range(3):
    console.print("said to nobody")  # rich ends the thread where this fails
    print("nor this", flush=True)
open(sys.argv[1], "w").write("done")
"""


def test_a_process_outlives_whoever_reads_what_it_prints(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", TALKS, str(tmp_path / "end")], text=True, **pipes)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    assert process.stderr.readline() == "begun\n"
    process.stdout.close()
    process.stderr.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(60) == 0
    assert (tmp_path / "end").read_text() == "done"
