"""Takes from this process, for good, all that could harm anyone; it knows nothing of notebooks.

Two walls of Linux's own that need no rights and that no program can take down again:

- seccomp: only the system calls below are left. There is none that makes a socket, starts a
  program, a fork or a signal, traces a process, or opens a file to write.
- Landlock (Linux 5.13): of all files only those in a list can be opened, to read.

Beside them limits on processor time, memory and files. Sources: seccomp(2), landlock(7),
setrlimit(2); the numbers are those of asm/unistd.h.
"""

import contextlib
import ctypes
import os
import platform
import re
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

# name, number on x86-64, number on ARM64 ("-": it has none)
CALLS = """
read 0 63  write 1 64  close 3 57  fstat 5 80  newfstatat 262 79  stat 4 -  lstat 6 -  lseek 8 62
mmap 9 222  mprotect 10 226  munmap 11 215  mremap 25 216  madvise 28 233  brk 12 214  msync 26 227
mincore 27 232  rt_sigaction 13 134  rt_sigprocmask 14 135  rt_sigreturn 15 139
sigaltstack 131 132  pread64 17 67  preadv 295 69  readv 19 65  writev 20 66  access 21 -
faccessat 269 48  faccessat2 439 439  statx 332 291  statfs 137 43  fstatfs 138 44  readlink 89 -
readlinkat 267 78  getcwd 79 17  getdents64 217 61  getdents 78 -  fadvise64 221 223
poll 7 -  ppoll 271 73  select 23 -  pselect6 270 72  epoll_create1 291 20  epoll_ctl 233 21
epoll_wait 232 -  epoll_pwait 281 22  eventfd2 290 19  pipe 22 -  pipe2 293 59  dup 32 23
dup2 33 -  dup3 292 24  fcntl 72 25  ioctl 16 29  socketpair 53 199  sendto 44 206
recvfrom 45 207  sendmsg 46 211  recvmsg 47 212  shutdown 48 210  getsockopt 55 209
setsockopt 54 208  getsockname 51 204  getpeername 52 205  sched_yield 24 124
sched_getaffinity 204 123  sched_getparam 143 121  sched_getscheduler 145 120  nanosleep 35 101
clock_nanosleep 230 115  clock_gettime 228 113  clock_getres 229 114  gettimeofday 96 169
time 201 -  times 100 153  getrusage 98 165  getrlimit 97 163  futex 202 98
set_robust_list 273 99  get_robust_list 274 100  set_tid_address 218 96  rseq 334 293
arch_prctl 158 -  membarrier 324 283  restart_syscall 219 128  getpid 39 172  gettid 186 178
getppid 110 173  getuid 102 174  geteuid 107 175  getgid 104 176  getegid 108 177  getpgrp 111 -
getpgid 121 155  getsid 124 156  getgroups 115 158  uname 63 160  sysinfo 99 179
getrandom 318 278  getcpu 309 168  get_mempolicy 239 236  exit 60 93  exit_group 231 94
"""
MACHINES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}  # column above, audit arch
SPECIAL: dict[str, tuple[int, int]] = {
    "open": (2, -1),
    "openat": (257, 56),
    "clone": (56, 220),
    "prlimit64": (302, 261),
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
WRITES |= getattr(os, "O_TMPFILE", 0) & ~getattr(os, "O_DIRECTORY", 0)
THREAD = 0x10000  # CLONE_THREAD: a thread of this process, not another process
EPERM, ENOSYS = 1, 38
NEW_CALLS = 424  # from here on numbers are the same everywhere, and libraries do without them
NO_NEW_PRIVS, SET_SECCOMP, SET_DUMPABLE = 38, 22, 4
LOAD, JUMP, JUMP_GE, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000
READ_FILE, READ_DIR = 4, 8
# how many kinds of access to files each version of Landlock knows
KINDS = {1: 13, 2: 14, 3: 15, 4: 15}


def supported() -> bool:
    """Whether this system has what the first wall is made of."""
    return sys.platform == "linux" and platform.machine() in MACHINES


def landlock_version() -> int:
    """The version of Landlock here; 0 where there is none."""
    found = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    return max(0, found)


def _filter() -> bytes:
    """The seccomp program: one 8-byte instruction after the other (code, jump, jump, number)."""
    column, arch = MACHINES[platform.machine()]
    calls = [line.split() for line in re.split(r"\n|  +", CALLS) if line.strip()]
    allowed = [int(call[column]) for call in calls if call[column] != "-"]
    number = {name: pair[column - 1] for name, pair in SPECIAL.items()}

    def step(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, k)

    def argument(n: int) -> bytes:  # its lower half
        return step(LOAD, 16 + 8 * n)

    program = [step(LOAD, 4), step(JUMP, arch, 1, 0), step(RETURN, KILL), step(LOAD, 0)]
    # newer ones, and x86-64's second table, look absent: libraries then take the older way
    program += [step(JUMP, 439, 2, 0), step(JUMP_GE, NEW_CALLS, 0, 1), step(RETURN, ERROR | ENOSYS)]
    for call in allowed:
        program += [step(JUMP, call, 0, 1), step(RETURN, ALLOW)]
    refused, fine = step(RETURN, ERROR | EPERM), step(RETURN, ALLOW)
    for name, flags in (("open", 1), ("openat", 2)):
        if number[name] >= 0:
            test = [argument(flags), step(JUMP_SET, WRITES, 0, 1), refused, fine]
            program += [step(JUMP, number[name], 0, len(test)), *test]
    test = [argument(0), step(JUMP_SET, THREAD, 1, 0), refused, fine]
    program += [step(JUMP, number["clone"], 0, len(test)), *test]
    test = [argument(0), step(JUMP, 0, 0, 2), argument(2), step(JUMP, 0, 1, 0), refused, fine]
    program += [step(JUMP, number["prlimit64"], 0, len(test)), *test]
    return b"".join([*program, refused])


def _read_only(paths: Iterable[Path], listed: Iterable[Path], version: int) -> None:
    """Put up the second wall: nothing but `paths`, and what is below them, can be opened."""
    libc = ctypes.CDLL(None, use_errno=True)
    kinds = (1 << KINDS.get(version, 16)) - 1
    fields = [kinds, 3, 3][: 1 if version < 4 else 2 if version < 6 else 3]  # files, TCP, signals
    attribute = struct.pack(f"{len(fields)}Q", *fields)
    rules = libc.syscall(444, attribute, ctypes.c_size_t(len(attribute)), ctypes.c_uint(0))
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    allowed = [(path, READ_FILE | (READ_DIR if path.is_dir() else 0)) for path in paths]
    for path, may in [*allowed, *((path, READ_DIR) for path in listed)]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            place = os.open(path, os.O_PATH)
            rule = struct.pack("=Qi", may, place)
            if libc.syscall(445, rules, ctypes.c_int(1), rule, ctypes.c_uint(0)):
                raise OSError(ctypes.get_errno(), "landlock_add_rule")
            os.close(place)
    if libc.syscall(446, rules, ctypes.c_uint(0)):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(rules)


def limit(seconds: int, memory: int) -> None:
    """Limit this process: `seconds` of processor time, `memory` bytes beyond what it has now."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + memory
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
    ):
        resource.setrlimit(what, (most, most))


def lock(readable: Iterable[Path], listed: Iterable[Path] = ()) -> None:
    """Put up both walls around this process; there is no way back.

    Args:
        readable: files and folders that may still be read; the rest only where Landlock is absent.
        listed: folders whose names may be seen, with those below them.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)  # no sibling can look into its memory
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    version = landlock_version()
    if version:
        _read_only(readable, listed, version)
    program = _filter()
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    whole = Program(len(program) // 8, ctypes.addressof(code))
    if libc.prctl(SET_SECCOMP, 2, ctypes.byref(whole), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
