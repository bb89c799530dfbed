"""The one wall around files from strangers: each submission is read in a process with limited time and memory.
A submission that exceeds a limit is refused with the limit's name. If its process dies, no other one is affected."""
import json
import sys
import time
import warnings
from collections import deque
from multiprocessing import connection, get_context

from data import InputError, is_out_of_memory
from data.cache import START_METHOD, follow_parent, resource

LIMITS = {  # README.md shows the same table
    "time": 60,  # seconds for a submission, and more for each true image:
    "time an image": 1,
    "time an image of a network": 20,  # on one core
    "memory": 3 << 30,  # bytes for a submission's process, and more for each pixel of the largest true image:
    "memory a pixel": 256,
    "result": 16 << 20,  # bytes that the process may send back
    "files": 10_000,  # in a submission
    "bytes": 2 << 30,  # in all its files, unpacked
    "file": 64 << 20,  # bytes in one file, unpacked
    "archive": 512 << 20,  # bytes in an archive within a submission, unpacked once; at most two lie in one another
    "name": 300,  # characters; a longer name is cut
}


class Exceeded(InputError):
    """A limit is exceeded. `limit` is its name: one of LIMITS, or "died" if the process died."""

    def __init__(self, limit, message):
        super().__init__(f"{message} (limit: {limit})")
        self.limit = limit


def run_each(function, jobs, seconds, memory, processes):
    """Yield (job, function(job)) as the jobs end. Each has its own process; `processes` run at a time. The result is an
    Exceeded if a job takes more than seconds(job) or memory (bytes), or if its process dies."""
    context, waiting, running = get_context(START_METHOD), deque(jobs), {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.popleft()
                (reader, writer), allowed = context.Pipe(duplex=False), seconds(job)
                process = context.Process(target=_work, args=(writer, function, job, allowed, memory), daemon=True)
                process.start()
                writer.close()  # otherwise the pipe would stay open after the process ends
                running[reader] = process, job, time.monotonic() + allowed
            first = min(deadline for *_, deadline in running.values())
            ended = connection.wait(running, max(first - time.monotonic(), 0))
            late = [reader for reader, (*_, deadline) in running.items() if deadline <= time.monotonic()]
            for reader in ended or late:
                process, job, _ = running.pop(reader)
                result = _receive(reader) if ended else Exceeded("time", f"it took more than {seconds(job):.0f} s")
                process.kill()
                process.join()
                yield job, result
    finally:
        for process, *_ in running.values():
            process.kill()
            process.join()


def _work(writer, function, job, seconds, memory):
    """The code of a submission's process."""
    follow_parent()
    _limit(seconds, memory)
    warnings.simplefilter("ignore")  # libraries' warnings about strangers' files do not help a teacher
    try:
        answer = {"result": function(job)}
    except (MemoryError, RuntimeError) as error:  # RuntimeError is torch's
        if not is_out_of_memory(error):
            raise
        answer = {"limit": "memory", "message": f"it needs more than {memory / (1 << 30):.1f} GB of memory"}
    writer.send_bytes(json.dumps(answer).encode())


def _receive(reader):
    """The result that a process sends, or an Exceeded."""
    try:
        answer = json.loads(reader.recv_bytes(LIMITS["result"]))
        return answer["result"] if "result" in answer else Exceeded(**answer)
    except EOFError:
        return Exceeded("died", "the process that read it died: a file in it is damaged or harmful, or this computer "
                                "has too little memory")
    except OSError:
        return Exceeded("result", "its result is too large")


def _limit(seconds, allowance):
    """Limit this process to twice `seconds` on all cores, and `allowance` bytes more than it has now, on Linux."""
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[5])  # data and stacks; RLIMIT_AS would also count reserved addresses
        resource.setrlimit(resource.RLIMIT_CPU, (int(2 * seconds) + 1,) * 2)  # follow_parent cannot end a loop in C
        resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + allowance,) * 2)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # where memory is short all the same, the system ends this process first
