"""`python -m protos` compares the protos with the last release; `python -m protos --release VERSION` records one."""

import re
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc
from protos.breaking import breaks

PROTOS = Path(__file__).parent
RELEASED = PROTOS / "released"


def main(arguments: list[str]) -> int:
    """Answers the exit code; 1 where something breaks, 2 where nothing could be compared."""
    current = compile_set()
    if arguments[:1] == ["--release"]:
        return record(current, "".join(arguments[1:]))
    release = last_release()
    if release is None:
        print(f"no release in {RELEASED}: `make release-protos` records one", file=sys.stderr)
        return 2
    found = breaks(FileDescriptorSet.FromString(release.read_bytes()), current)
    for line in found:
        print(line)
    if found:
        print(f"{len(found)} breaking changes against {release.stem}: add beside what is there, or open a package v2")
        return 1
    print(f"nothing breaks against {release.stem}")
    return 0


def compile_set() -> FileDescriptorSet:
    """The descriptors of all our protos, without comments."""
    names = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    wellknown = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.binpb"
        if protoc.main(["protoc", f"-I{PROTOS}", f"-I{wellknown}", f"-o{out}", *names]):
            sys.exit(2)  # protoc has said why
        return FileDescriptorSet.FromString(out.read_bytes())


def last_release() -> Path | None:
    """The descriptor set of the highest version."""
    found = RELEASED.glob("*.binpb")
    return max(found, key=lambda path: [int(part) for part in path.stem.split(".")], default=None)


def record(current: FileDescriptorSet, version: str) -> int:
    """Writes the set of a release; a release never changes."""
    path = RELEASED / f"{version}.binpb"
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or path.exists():
        print(f"{path.name}: released already, or no version as in 1.2.3", file=sys.stderr)
        return 2
    path.write_bytes(current.SerializeToString(deterministic=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
