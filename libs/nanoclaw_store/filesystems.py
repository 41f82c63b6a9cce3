"""Which file systems a database may lie on: those that lock and flush for real, which shared ones do not."""

from pathlib import Path

from nanoclaw_core.errors import Kind, NanoclawError

_SHARED = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "smb2", "ncpfs", "9p", "afs", "coda", "ceph", "glusterfs", "lustre",
     "gpfs", "gfs", "gfs2", "ocfs2", "orangefs", "pvfs2", "beegfs", "davfs", "fakeowner", "vboxsf", "vmhgfs",
     "virtiofs", "prl_fs", "drvfs", "acfs", "panfs"}
)  # fmt: skip
_LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs"})

_MOUNTS = Path("/proc/self/mountinfo")


def file_system(path: Path, mountinfo: str) -> str:
    """The type of the file system that holds an absolute path, by the text of /proc/self/mountinfo."""
    answer, longest = "", -1
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        mount_point = Path(_unescape(before.split(" ")[4]))
        # The last mount on a point covers the ones before.
        if path.is_relative_to(mount_point) and len(mount_point.parts) >= longest:
            answer, longest = after.split(" ")[0], len(mount_point.parts)
    return answer


def is_shared(kind: str) -> bool:
    """Whether a type of file system is a network or shared-folder one; unknown FUSE ones are taken for such."""
    return kind in _SHARED or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)


def refuse_shared(path: Path, mounts: Path | None = None) -> None:
    """Raises PRECONDITION STORE_ON_SHARED_FILE_SYSTEM, or STORE_FILE_SYSTEM_UNKNOWN where nothing tells the type."""
    mounts = mounts or _MOUNTS
    try:
        kind = file_system(path.resolve(), mounts.read_text())
    except OSError:
        kind = ""
    if not kind:
        raise NanoclawError(
            Kind.PRECONDITION,
            "STORE_FILE_SYSTEM_UNKNOWN",
            f"cannot tell the file system of {path}",
            next_step=f"make {mounts} readable",
        )
    if is_shared(kind):
        raise NanoclawError(
            Kind.PRECONDITION,
            "STORE_ON_SHARED_FILE_SYSTEM",
            f"{path} lies on {kind}, where neither locks nor flushes can be trusted",
            next_step="put NANOCLAW_HOME on a local disk or a volume of the container engine",
            file_system=kind,
        )


def _unescape(text: str) -> str:
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, character)
    return text
