"""Run a program on an emulated PC whose processor has AVX-512: `python tools/emulated_pc.py PROGRAM`.

PROGRAM, linked statically, runs on a Linux kernel under Bochs, which interprets 10 to 50 million instructions per second and needs
a minute to start. What the program writes is written here, and its exit status is this one's.

Needs, of Debian's packages: bochs bochs-term vgabios isolinux syslinux-common xorriso busybox-static linux-image-cloud-amd64.
"""
import gzip
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from glob import glob
from pathlib import Path

LOADER = ["/usr/lib/ISOLINUX/isolinux.bin", "/usr/lib/syslinux/modules/bios/ldlinux.c32"]
LIMIT = 3 * 3600  # seconds

# The kernel finds the sizes of compacted states wrong in this emulator and would do without AVX.
MENU = """default linux
label linux
 kernel vmlinuz
 append initrd=initrd.gz console=ttyS0 quiet mitigations=off clearcpuid=xsaves,xsavec
"""
MACHINE = """display_library: term
megs: 512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
cpu: model=corei7_skylake_x
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial
log: log
error: action=ignore
"""
# What begins with the time, and no line of the program's, is the kernel's.
OF_THE_KERNEL = re.compile(r"\[ *\d+\.\d+\] ")
INIT = """#!/busybox sh
/program
echo "exit status $?"
/busybox sleep 1000000
"""
END = re.compile(r"exit status (\d+)$")


def missing():
    """What is not installed, in words; empty if nothing is."""
    tools = [name for name in ("bochs", "xorriso") if not shutil.which(name)]
    files = [name for name in (*LOADER, "/usr/share/vgabios/vgabios.bin", "/bin/busybox", "/boot/vmlinuz-*") if not glob(name)]
    return ", ".join(tools + files)


def archive(members):
    """A cpio archive (`newc`) of (name, mode, device, content)."""
    out = bytearray()
    for number, (name, mode, device, content) in enumerate([*members, ("TRAILER!!!", 0, (0, 0), b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)


def make_disc(program, folder):
    disc = folder / "disc"
    disc.mkdir()
    members = [
        ("dev", 0o040755, (0, 0), b""),
        ("dev/console", 0o020600, (5, 1), b""),
        ("busybox", 0o100755, (0, 0), Path("/bin/busybox").read_bytes()),
        ("program", 0o100755, (0, 0), Path(program).read_bytes()),
        ("init", 0o100755, (0, 0), INIT.encode()),
    ]
    (disc / "initrd.gz").write_bytes(gzip.compress(archive(members), 1))
    (disc / "isolinux.cfg").write_text(MENU)
    for source in LOADER:
        shutil.copy(source, disc)
    shutil.copy(max(glob("/boot/vmlinuz-*"), key=os.path.getmtime), disc / "vmlinuz")
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-o", folder / "boot.iso", "-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot",
         "-boot-load-size", "4", "-boot-info-table", disc], check=True, stderr=subprocess.DEVNULL)  # fmt: skip


def drain(fd):
    try:
        while os.read(fd, 1 << 16):
            pass
    except OSError:
        pass  # the other side is closed


def emulate(folder):
    """Start the machine, pass on what its program writes, and return the program's exit status."""
    (folder / "machine").write_text(MACHINE)
    (folder / "commands").write_text("c\n")  # Debian's has a debugger, which waits for "continue"
    screen, terminal = pty.openpty()
    threading.Thread(target=drain, args=(screen,), daemon=True).start()
    bochs = subprocess.Popen(["bochs", "-q", "-f", "machine", "-rc", "commands"], cwd=folder, stdin=terminal, stdout=terminal,
                             stderr=terminal, env={**os.environ, "TERM": "linux"}, start_new_session=True)  # fmt: skip
    try:
        return follow(folder / "serial", bochs, time.monotonic() + LIMIT)
    finally:
        os.killpg(bochs.pid, signal.SIGKILL)
        bochs.wait()


def follow(serial, bochs, until):
    part, at = "", 0
    while time.monotonic() < until:
        stopped = bochs.poll() is not None
        if serial.exists():
            with open(serial, errors="replace", newline="") as file:
                file.seek(at)
                part, at = part + file.read(), file.tell()
        *lines, part = part.replace("\r", "").split("\n")
        for line in lines:
            if found := END.search(line):
                return int(found[1])
            if not OF_THE_KERNEL.match(line):
                print(line, flush=True)
        if stopped:
            sys.exit("the emulator has stopped")
        time.sleep(0.2)
    sys.exit("the program has not ended in time")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if absent := missing():
        sys.exit(f"not installed: {absent}")
    with tempfile.TemporaryDirectory() as scratch:
        make_disc(sys.argv[1], Path(scratch))
        sys.exit(emulate(Path(scratch)))
