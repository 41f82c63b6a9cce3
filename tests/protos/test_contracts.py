"""The contracts keep the house's rules, and the committed stubs are what the protos give."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).parents[2]
PROTOS = sorted((ROOT / "protos").rglob("*.proto"))
NAMES = [str(path.relative_to(ROOT / "protos")) for path in PROTOS]
READS = ("Get", "List", "Watch", "Explain", "Verify")
# Call is a mutation and carries a request_id; Submit likewise.


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[descriptor_pb2.FileDescriptorProto]:
    """The descriptors of our own protos, with their comments."""
    out = tmp_path_factory.mktemp("descriptors") / "set.pb"
    wellknown = Path(protoc.__file__).parent / "_proto"
    code = protoc.main(
        ["protoc", f"-I{ROOT / 'protos'}", f"-I{wellknown}", f"-o{out}", "--include_source_info", *NAMES]
    )
    assert code == 0
    return list(descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file)


def test_the_directory_is_the_package_is_the_import(files: list[descriptor_pb2.FileDescriptorProto]) -> None:
    """One name, from proto to import."""
    for file in files:
        folder = Path(file.name).parent
        assert file.package == ".".join(folder.parts)
        importlib.import_module(f"{file.package}.{Path(file.name).stem}_pb2_grpc")


def test_requests_and_responses_are_named_after_their_rpc(files: list[descriptor_pb2.FileDescriptorProto]) -> None:
    """`<Rpc>Request` in, `<Rpc>Response` out."""
    for file in files:
        for service in file.service:
            for method in service.method:
                assert method.input_type == f".{file.package}.{method.name}Request"
                assert method.output_type == f".{file.package}.{method.name}Response"


def test_every_enum_starts_unspecified(files: list[descriptor_pb2.FileDescriptorProto]) -> None:
    """Zero means that nobody said anything."""
    enums = [enum for file in files for enum in file.enum_type]
    enums += [enum for file in files for message in file.message_type for enum in message.enum_type]
    assert enums
    for enum in enums:
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
        assert enum.value[0].name == f"{prefix}_UNSPECIFIED"
        assert enum.value[0].number == 0
        assert all(value.name.startswith(prefix + "_") for value in enum.value)


def test_lists_page_and_mutations_carry_a_request_id(files: list[descriptor_pb2.FileDescriptorProto]) -> None:
    """A list has page_size and page_token, a mutation a request_id."""
    for file in files:
        fields = {message.name: {field.name for field in message.field} for message in file.message_type}
        for method in [method for service in file.service for method in service.method]:
            if method.name.startswith("List"):
                assert {"page_size", "page_token"} <= fields[f"{method.name}Request"], method.name
                assert "next_page_token" in fields[f"{method.name}Response"], method.name
            if not method.name.startswith(READS):
                assert "request_id" in fields[f"{method.name}Request"], method.name
            assert method.server_streaming == method.name.startswith("Watch"), method.name


def test_every_rpc_is_documented_where_it_is_declared(files: list[descriptor_pb2.FileDescriptorProto]) -> None:
    """The proto is the API documentation: services say what they are for, and RPCs that decide say how."""
    for file in files:
        documented = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
        for number, service in enumerate(file.service):
            commented = sum((6, number, 2, index) in documented for index in range(len(service.method)))
            plain_reads = sum(method.name.startswith(("Get", "List")) for method in service.method)
            assert commented + plain_reads >= len(service.method), service.name


def test_the_committed_stubs_are_in_step(tmp_path: Path) -> None:
    """`make protos` would change nothing."""
    scripts = Path(sys.executable).parent
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-Iprotos"),
            *(f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"),
            f"--plugin=protoc-gen-mypy={shutil.which('protoc-gen-mypy', path=scripts)}",
            f"--plugin=protoc-gen-mypy_grpc={shutil.which('protoc-gen-mypy_grpc', path=scripts)}",
            *(f"--mypy_out=quiet:{tmp_path}", f"--mypy_grpc_out=quiet:{tmp_path}"),
            *(f"protos/{name}" for name in NAMES),
        ],
        cwd=ROOT,
        check=True,
    )
    assert generated(tmp_path) == generated(ROOT / "libs")


def generated(root: Path) -> dict[Path, str]:
    """Every stub and type file below root/nanoclaw, by its path."""
    found = [path for path in (root / "nanoclaw").rglob("*_pb2*") if path.suffix in (".py", ".pyi")]
    return {path.relative_to(root): path.read_text() for path in found}
