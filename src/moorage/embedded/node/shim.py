"""The process that stays with one container: starts it in its own root, writes its log, reaps its descendants, records how it ended.

It runs as a bare script (`python -I -S shim.py run FOLDER ...`), imports nothing of Moorage and outlives the node agent, so that kill -9 of the
agent touches no container. FOLDER is the contract with the agent:

    launch.json   what to start (read by the container's process alone, so that the shim itself stays small)
    events        FIFO, shim -> agent: `s` started, `l` log grew (only when asked); end of file: the shim is gone
    control       FIFO, agent -> shim: `T<seconds>` TERM, after the grace KILL; `K` KILL; `F1`/`F0` tell of log growth or not.
                  `W<width>x<height>` the size of its terminal; `E` no more input will come.
                  A FIFO without reader (ENXIO) means the shim is gone, whatever its pid is used for now: its own ends are open before it exists
    stdin         FIFO, agent -> container, when it has an input; terminal: an empty file, when it has a terminal
    started, exit `key=value` lines, written whole and renamed into place
    log.NNNNNN    CRI log lines; a new file every LOG_BYTES, the oldest removed beyond LOG_FILES
"""

# ruff: noqa: PTH123 (pathlib costs a megabyte in every shim)
from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time

# What `typing` says too; importing it here would cost each shim memory.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import CDLL
    from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_SLAVE = 1, 32, 4096, 8192, 16384, 1 << 18, 1 << 19
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# Flags that an unprivileged remount must repeat, as statvfs names them (mount(2), locked flags).
LOCKED_FLAGS = 2 | 4 | 8 | 1024 | 2048 | 4096
ST_RELATIME, MS_RELATIME = 4096, 1 << 21
READ_SIZE = 1 << 16
LINUX = sys.platform.startswith("linux")
EVENTS, CONTROL = 3, 4
# What the container runtimes of Kubernetes report when a container's process cannot be started.
START_ERROR = 128


def _libc() -> CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    import ctypes

    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def mount(libc: CDLL, source: str | None, target: str, *, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    encode = [None if part is None else os.fsencode(part) for part in (source, target, kind)]
    _checked(libc.mount(*encode, flags, None if data is None else data.encode()), f"mount {source or kind} on {target}")


def unshare(libc: CDLL, mode: str) -> None:
    """A private mount namespace; mode `user` takes a user namespace too, in which this user keeps its own id."""
    if mode == "user":
        uid, gid = os.geteuid(), os.getegid()
        _checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare")
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    else:
        _checked(libc.unshare(CLONE_NEWNS), "unshare")
    # Slave: what the host unmounts later goes away here too, and nothing mounted here reaches the host.
    mount(libc, None, "/", flags=MS_REC | MS_SLAVE)


def build_root(libc: CDLL, root: str, steps: list[list[Any]]) -> None:
    """Carry out the agent's plan (`mounts.plan`) on a fresh tmpfs at `root`, then make it the root of this process."""
    mount(libc, "moorage", root, kind="tmpfs", data="mode=755")
    for step in steps:
        operation, path = step[0], root + step[1]
        if operation == "dir":
            os.makedirs(path, exist_ok=True)
        elif operation == "file":
            os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o644))
        elif operation == "link":
            os.symlink(step[2], path)
        elif operation == "tmpfs":
            mount(libc, "moorage", path, kind="tmpfs", data=step[2])
        else:
            bind(libc, step[2], path, readonly=step[3], optional=step[4])
    os.chdir(root)
    if libc.pivot_root(b".", b".") == 0:
        _checked(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    else:
        # The root of an initramfs cannot be pivoted away (pivot_root(2), EINVAL).
        mount(libc, root, "/", flags=MS_MOVE)
        os.chroot(".")
    os.chdir("/")


def bind(libc: CDLL, source: str, path: str, *, readonly: bool, optional: bool) -> None:
    try:
        mount(libc, source, path, flags=MS_BIND | MS_REC)
        if readonly:
            kept = os.statvfs(path).f_flag
            flags = (kept & LOCKED_FLAGS & ~ST_RELATIME) | (MS_RELATIME if kept & ST_RELATIME else 0)
            mount(libc, None, path, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | flags)
    except OSError:
        # An entry of a host directory may vanish between the plan and now; a volume may not.
        if not optional:
            raise


def read_launch(folder: str) -> dict[str, Any]:
    import json

    with open(os.path.join(folder, "launch.json")) as file:
        launch: dict[str, Any] = json.load(file)
    return launch


def execute(launch: dict[str, Any]) -> NoReturn:
    """Become the container's command; OSError in the words of the container runtimes."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.umask(0o022)
    argv, env = launch["argv"], launch["env"]
    if not argv:
        raise OSError("no command specified")
    try:
        os.makedirs(launch["cwd"], exist_ok=True)
        os.chdir(launch["cwd"])
    except OSError as error:
        raise OSError(f'cannot chdir to "{launch["cwd"]}": {error.strerror}') from error
    replace_process(argv, env)


def replace_process(argv: list[str], env: dict[str, str]) -> NoReturn:
    """execvpe, which itself would import from a standard library that this root need not have."""
    name, failure = argv[0], "executable file not found in $PATH"
    folders = [""] if "/" in name else [folder + "/" for folder in env.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":")]
    for folder in folders:
        try:
            os.execve(folder + name, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            if "/" in name:
                failure = "no such file or directory"
        except OSError as error:
            failure = (error.strerror or "cannot be executed").lower()
    raise OSError(f'exec: "{name}": {failure}')


def enter_cgroups(launch: dict[str, Any]) -> None:
    for procs in launch["cgroups"]:
        with open(procs, "w") as file:
            file.write("0")


def start(folder: str, streams: tuple[int, int], report: int, parent: int) -> NoReturn:
    """In the forked child: confine, then exec. Whatever fails is told through `report` and ends this process."""
    try:
        launch = read_launch(folder)
        os.setsid()
        if os.isatty(streams[0]):
            # Opened by name and by the leader of a session without a terminal, it becomes the session's own.
            terminal = os.open(os.ttyname(streams[0]), os.O_RDWR)
            ends = (terminal, terminal, terminal)
        else:
            # The shim holds the writing end of `stdin`, so that this does not wait for anybody to attach.
            ends = (os.open("stdin" if os.path.exists("stdin") else "/dev/null", os.O_RDONLY), *streams)
        for target, descriptor in enumerate(ends):
            os.dup2(descriptor, target)
        enter_cgroups(launch)
        if LINUX:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(str(launch["oomScoreAdj"]))
            libc = _libc()
            if launch["namespace"] != "none":
                unshare(libc, launch["namespace"])
                build_root(libc, launch["root"], launch["steps"])
            # A shim that is killed takes its container along: nobody could record its end otherwise.
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(START_ERROR)
        execute(launch)
    except (OSError, ValueError, KeyError) as error:
        os.write(report, str(error).encode())
        os._exit(START_ERROR)


class Log:
    """The CRI log of both streams. What has no line end yet is written at once as a partial entry, so that nothing waits in memory."""

    def __init__(self, limit: int, files: int) -> None:
        self.limit, self.files, self.number, self.size, self.descriptor = limit, files, 0, 0, -1
        self._second, self._stamp = 0, ""
        self._rotate()

    def _rotate(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.number += 1
        self.size = 0
        self.descriptor = os.open(f"log.{self.number:06d}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if self.number > self.files:
            try:
                os.unlink(f"log.{self.number - self.files:06d}")
            except FileNotFoundError:
                pass

    def write(self, stream: str, data: bytes) -> None:
        second, rest = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        head = f"{self._stamp}.{rest:09d}Z {stream} ".encode()
        lines = data.split(b"\n")
        partial = lines.pop()
        entries = [b"%sF %s\n" % (head, line) for line in lines]
        if partial:
            entries.append(b"%sP %s\n" % (head, partial))
        block = b"".join(entries)
        try:
            while block:
                written = os.write(self.descriptor, block)
                self.size += written
                block = block[written:]
            if self.size >= self.limit:
                self._rotate()
        except OSError as error:
            # A full disk costs log lines, never the container.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise


def publish(name: str, pairs: tuple[tuple[str, object], ...]) -> None:
    """Write `key=value` lines whole. The file is reserved beforehand for `exit`, so that a full disk cannot lose it."""
    text = "".join(f"{key}={str(value).encode('unicode_escape').decode()}\n" for key, value in pairs).encode()
    descriptor = os.open(name + ".new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    os.write(descriptor, text)
    os.ftruncate(descriptor, len(text))
    os.close(descriptor)
    os.rename(name + ".new", name)


def reserve(name: str) -> None:
    descriptor = os.open(name + ".new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    os.write(descriptor, b"\n" * 4096)
    os.close(descriptor)


def stat_fields(pid: int | str) -> tuple[int, int, int] | None:
    """(parent, start ticks, resident pages) of a process, None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[19]), int(fields[21])


def tree(root: int) -> dict[int, int]:
    """Every living descendant of `root` with its resident pages, parents first."""
    seen: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat_fields(name)):
            seen[int(name)] = fields[2]
            children.setdefault(fields[0], []).append(int(name))
    found: dict[int, int] = {}
    ahead = [root]
    while ahead:
        for child in children.get(ahead.pop(), ()):
            if child not in found:
                found[child] = seen[child]
                ahead.append(child)
    return found


def moment() -> str:
    now = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000)) + f".{now % 1_000_000_000 // 1000:06d}Z"


def oom_kills(file: str) -> int:
    """The `oom_kill` counter of memory.events (cgroup v2) or memory.oom_control (v1)."""
    if not file:
        return 0
    try:
        with open(file) as lines:
            return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    except OSError:
        return 0


class Attendant:
    """The shim proper: one container's process from start to recorded end."""

    def __init__(self, log: Log, memory_limit: int, oom_file: str) -> None:
        self.log, self.memory_limit, self.oom_file = log, memory_limit, oom_file
        self.main, self.finished = 0, ""
        self.status: int | None = None
        self.kill_at: float | None = None
        self.measure_at: float | None = None
        self.follow, self.over_memory = False, False
        # Inherited, both open for reading and writing, so that `control` never reads as ended while no agent is there.
        self.events, self.control = EVENTS, CONTROL
        for descriptor in (EVENTS, CONTROL):
            os.set_inheritable(descriptor, False)
        self.input = os.open("stdin", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) if os.path.exists("stdin") else -1
        self.terminal, self.typed = -1, b""
        self.commands = b""

    def tell(self, event: bytes) -> None:
        try:
            os.write(self.events, event)
        except BlockingIOError:
            pass  # nobody has read for long: whoever comes next looks at the files anyway

    def signal_group(self, number: int) -> None:
        try:
            os.killpg(self.main, number)
        except (ProcessLookupError, PermissionError):
            pass

    def kill_tree(self) -> None:
        self.signal_group(signal.SIGKILL)
        for pid in tree(os.getpid()) if LINUX else ():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def obey(self) -> None:
        self.commands += os.read(self.control, 4096)
        *lines, self.commands = self.commands.split(b"\n")
        for line in lines:
            if line == b"K":
                self.kill_tree()
            elif line in (b"F1", b"F0"):
                self.follow = line == b"F1"
                if self.follow:
                    # What was written between the follower's look at the file and this moment was told to nobody.
                    self.tell(b"l")
            elif line[:1] == b"T":
                self.terminate(float(line[1:]))
            elif line[:1] == b"W" and self.terminal >= 0:
                self.resize(*map(int, line[1:].split(b"x")))
            elif line == b"E" and self.terminal < 0 and self.input >= 0:
                os.close(self.input)
                self.input = -1

    def resize(self, width: int, height: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self) -> None:
        """Hand input on to the terminal, as much as it takes."""
        try:
            if not self.typed:
                self.typed = os.read(self.input, 4096)
            self.typed = self.typed[os.write(self.terminal, self.typed) :]
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EIO):
                raise

    def terminate(self, grace: float) -> None:
        self.signal_group(signal.SIGTERM)
        deadline = time.monotonic() + grace
        self.kill_at = deadline if self.kill_at is None else min(self.kill_at, deadline)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.main:
                self.status, self.finished = status, moment()

    def measure(self) -> None:
        """Without a memory controller: look the more often, the nearer the container is to its limit."""
        used = sum(tree(os.getpid()).values()) * os.sysconf("SC_PAGE_SIZE")
        if used > self.memory_limit:
            self.over_memory = True
            self.kill_tree()
        self.measure_at = time.monotonic() + (0.1 if used * 4 > self.memory_limit * 3 else 0.5 if used * 2 > self.memory_limit else 1.0)

    def timeout(self) -> float | None:
        again = time.monotonic() + 0.05 if self.typed else None
        deadlines = [moment for moment in (self.kill_at, self.measure_at, again) if moment is not None]
        return None if not deadlines else max(0.0, min(deadlines) - time.monotonic()) * 1000

    def attend(self, streams: dict[int, str], wakeup: int) -> None:
        poll = select.poll()
        for descriptor in (*streams, self.control, wakeup):
            poll.register(descriptor, select.POLLIN)
        if self.terminal >= 0 and self.input >= 0:
            poll.register(self.input, select.POLLIN)
        if self.memory_limit and LINUX:
            self.measure_at = time.monotonic()
        while self.status is None:
            for descriptor, _ in poll.poll(self.timeout()):
                if descriptor == self.control:
                    self.obey()
                elif descriptor == wakeup:
                    os.read(wakeup, 512)
                    self.reap()
                elif descriptor == self.input:
                    self.type()
                elif not self.copy(descriptor, streams[descriptor]):
                    poll.unregister(descriptor)
            if self.typed:
                self.type()
            if self.terminal >= 0 and self.input >= 0:
                # What is not typed yet must not wake us all the time.
                poll.modify(self.input, 0 if self.typed else select.POLLIN)
            now = time.monotonic()
            if self.kill_at is not None and now >= self.kill_at:
                self.kill_at = None
                self.kill_tree()
            if self.measure_at is not None and now >= self.measure_at:
                self.measure()
        # A container ends with its first process: what it left behind is ended too, as with a PID namespace.
        self.bury()
        for descriptor, stream in streams.items():
            while self.copy(descriptor, stream):
                pass

    def bury(self) -> None:
        while True:
            self.kill_tree()
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def copy(self, descriptor: int, stream: str) -> bool:
        try:
            data = os.read(descriptor, READ_SIZE)
        except BlockingIOError:
            return False
        except OSError as error:
            # A terminal ends so, once nobody has its other side open.
            if error.errno != errno.EIO:
                raise
            return False
        if data:
            self.log.write(stream, data)
            if self.follow:
                self.tell(b"l")
        return bool(data)

    def record(self, error: str = "") -> None:
        if error:
            publish("exit", (("code", START_ERROR), ("signal", 0), ("finished", moment()), ("reason", "StartError"), ("message", error)))
            return
        assert self.status is not None
        number = os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0
        code = 128 + number if number else os.WEXITSTATUS(self.status)
        killed = self.over_memory or oom_kills(self.oom_file) > 0
        reason = "OOMKilled" if killed and code else "Error" if code else "Completed"
        publish("exit", (("code", code), ("signal", number), ("finished", self.finished), ("reason", reason), ("message", "")))


def run(folder: str, log_bytes: int, log_files: int, memory_limit: int, oom_file: str) -> None:
    """Detach from the agent, start the container and stay until it has ended."""
    os.chdir(folder)
    attendant = Attendant(Log(log_bytes, log_files), memory_limit, oom_file)
    reserve("exit")
    if os.fork():
        os._exit(0)
    os.setsid()
    errors = os.open("shim.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    null = os.open("/dev/null", os.O_RDWR)
    for target, descriptor in ((0, null), (1, null), (2, errors)):
        os.dup2(descriptor, target)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # A machine that shuts down sends TERM to all: hand it on and leave the container a moment.
    signal.signal(signal.SIGTERM, lambda *_: attendant.terminate(10.0))
    if LINUX:
        _libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wakeup, wakeup_end = os.pipe()
    for descriptor in (wakeup, wakeup_end):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
    terminal = os.path.exists("terminal")
    out, out_end = os.openpty() if terminal else os.pipe()
    err, err_end = os.pipe()
    if terminal:
        attendant.terminal = out
    report, report_end = os.pipe()
    parent = os.getpid()
    attendant.main = os.fork()
    if attendant.main == 0:
        start(folder, (out_end, err_end), report_end, parent)
    for descriptor in (out_end, err_end, report_end):
        os.close(descriptor)
    error = b""
    while data := os.read(report, READ_SIZE):
        error += data
    os.close(report)
    if error:
        os.waitpid(attendant.main, 0)
        attendant.record(error.decode(errors="replace"))
        return
    for descriptor in (out, err):
        os.set_blocking(descriptor, False)
    ticks = (stat_fields(attendant.main) or (0, 0, 0))[1] if LINUX else 0
    publish("started", (("pid", attendant.main), ("ticks", ticks), ("started", moment())))
    attendant.tell(b"s")
    attendant.attend({out: "stdout", err: "stderr"}, wakeup)
    attendant.record()


def join(folder: str, pid: int) -> dict[str, Any]:
    """Go into a running container: its root and limits. Returns how it was launched."""
    launch = read_launch(folder)
    if launch["namespace"] != "none":
        libc = _libc()
        descriptors = []
        for name, flag in (("user", CLONE_NEWUSER), ("mnt", CLONE_NEWNS)):
            if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
                descriptors.append((os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag))
        root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        enter_cgroups(launch)
        for descriptor, flag in descriptors:
            _checked(libc.setns(descriptor, flag), "setns")
        os.fchdir(root)
        os.chroot(".")
    else:
        enter_cgroups(launch)
    return launch


def enter(folder: str, pid: int, argv: list[str]) -> NoReturn:
    """Run a command inside a running container: its root, environment, folder and limits (probes, lifecycle hooks)."""
    execute({**join(folder, pid), "argv": argv})


def converse(folder: str, pid: int, report: int, parent: int, argv: list[str]) -> NoReturn:
    """`enter` for a command that somebody talks to (`kubectl exec`): on a terminal when stdin is one, ended with the agent that holds the
    other end. Why it could not start is told through `report`."""
    os.set_inheritable(report, False)
    try:
        terminal = os.isatty(0)
        if terminal:
            # Opened by the leader of a session without one, it becomes the session's controlling terminal: Ctrl-C needs that.
            os.close(os.open(os.ttyname(0), os.O_RDWR))
        launch = join(folder, pid)
        if LINUX:
            _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(START_ERROR)
        extra = {"TERM": "xterm"} if terminal and "TERM" not in launch["env"] else {}
        execute({**launch, "argv": argv, "env": {**launch["env"], **extra}})
    except (OSError, ValueError, KeyError) as error:
        os.write(report, str(error).encode())
        os._exit(START_ERROR)


def attempt(mode: str, root: str) -> None:
    """Whether this kernel lets us make a root of our own: exit 0, or 1 with the reason on stderr."""
    libc = _libc()
    unshare(libc, mode)
    build_root(libc, root, [["dir", "/probe"], ["bind", "/probe", "/proc", True, False]])


def main(argv: list[str]) -> int:
    operation, folder = argv[1], argv[2]
    if operation == "run":
        run(folder, int(argv[3]), int(argv[4]), int(argv[5]), argv[6])
        return 0
    try:
        if operation == "enter":
            enter(folder, int(argv[3]), argv[4:])
        elif operation == "converse":
            converse(folder, int(argv[3]), int(argv[4]), int(argv[5]), argv[6:])
        else:
            attempt(argv[3], folder)
    except OSError as error:
        os.write(2, f"{error}\n".encode())
        return 126
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
