"""`make breaking` finds whatever breaks who was built against the last release, and lets additions pass."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    EnumValueDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from hypothesis import given
from hypothesis import strategies as st
from protos.breaking import breaks

ROOT = Path(__file__).parents[2]

A_FILE = FileDescriptorProto(
    name="shop/v1/shop.proto",
    package="shop.v1",
    syntax="proto3",
    message_type=[
        DescriptorProto(
            name="BuyRequest",
            field=[
                FieldDescriptorProto(name="item", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL"),
                FieldDescriptorProto(name="count", number=2, type="TYPE_INT32", label="LABEL_OPTIONAL"),
                FieldDescriptorProto(
                    name="size", number=3, type="TYPE_ENUM", type_name=".shop.v1.Size", label="LABEL_OPTIONAL"
                ),
                FieldDescriptorProto(name="notes", number=4, type="TYPE_STRING", label="LABEL_REPEATED"),
            ],
            reserved_range=[DescriptorProto.ReservedRange(start=8, end=10)],
            reserved_name=["colour"],
            nested_type=[DescriptorProto(name="Wrapping")],
        ),
        DescriptorProto(name="BuyResponse"),
    ],
    enum_type=[
        EnumDescriptorProto(
            name="Size",
            value=[
                EnumValueDescriptorProto(name="SIZE_UNSPECIFIED", number=0),
                EnumValueDescriptorProto(name="SIZE_SMALL", number=1),
            ],
            reserved_range=[EnumDescriptorProto.EnumReservedRange(start=5, end=6)],
        )
    ],
    service=[
        ServiceDescriptorProto(
            name="ShopService",
            method=[
                MethodDescriptorProto(name="Buy", input_type=".shop.v1.BuyRequest", output_type=".shop.v1.BuyResponse")
            ],
        )
    ],
)

Change = Callable[[FileDescriptorProto], object]


def changed(change: Change) -> list[str]:
    """What is found after a change of the file."""
    after = FileDescriptorProto.FromString(A_FILE.SerializeToString())
    change(after)
    return breaks(FileDescriptorSet(file=[A_FILE]), FileDescriptorSet(file=[after]))


def put(message: object, **values: object) -> None:
    """Sets members of a descriptor; one that is None is cleared."""
    for name, value in values.items():
        if value is None:
            message.ClearField(name)  # type: ignore[attr-defined]
        else:
            setattr(message, name, value)


BREAKS: dict[str, tuple[Change, str]] = {
    "a field removed": (lambda f: f.message_type[0].field.pop(1), 'BuyRequest: field 2 "count" was removed'),
    "a field renumbered": (
        lambda f: put(f.message_type[0].field[1], number=7),
        'BuyRequest: field 2 "count" was renumbered to 7',
    ),
    "a field renamed": (
        lambda f: put(f.message_type[0].field[1], name="pieces"),
        'BuyRequest: field 2 "count" was renamed to "pieces"',
    ),
    "a field retyped": (
        lambda f: put(f.message_type[0].field[1], type=FieldDescriptorProto.TYPE_STRING),
        'BuyRequest: field 2 "count": type was int32, is string',
    ),
    "a field of another enum": (
        lambda f: put(f.message_type[0].field[2], type_name=".shop.v1.Length"),
        'BuyRequest: field 3 "size": type was shop.v1.Size, is shop.v1.Length',
    ),
    "a singular field repeated": (
        lambda f: put(f.message_type[0].field[0], label=FieldDescriptorProto.LABEL_REPEATED),
        'BuyRequest: field 1 "item": cardinality was singular, is repeated',
    ),
    "a singular field optional": (
        lambda f: put(f.message_type[0].field[0], proto3_optional=True),
        'BuyRequest: field 1 "item": cardinality was singular, is optional',
    ),
    "a field moved into a oneof": (
        lambda f: (
            f.message_type[0].oneof_decl.add(name="what"),
            put(f.message_type[0].field[0], oneof_index=0),
        ),
        'BuyRequest: field 1 "item": oneof was none, is what',
    ),
    "another name in JSON": (
        lambda f: put(f.message_type[0].field[0], json_name="thing"),
        'BuyRequest: field 1 "item": JSON name was , is thing',
    ),
    "a reserved number freed": (
        lambda f: put(f.message_type[0], reserved_range=None),
        "BuyRequest: numbers 8 to 9 are reserved no more",
    ),
    "a reserved name freed": (
        lambda f: put(f.message_type[0], reserved_name=None),
        'BuyRequest: name "colour" is reserved no more',
    ),
    "a reserved value freed": (
        lambda f: put(f.enum_type[0], reserved_range=None),
        "Size: numbers 5 to 6 are reserved no more",
    ),
    "a message removed": (lambda f: f.message_type.pop(1), "message shop.v1.BuyResponse was removed"),
    "a nested message removed": (
        lambda f: f.message_type[0].nested_type.pop(),
        "message shop.v1.BuyRequest.Wrapping was removed",
    ),
    "an enum removed": (lambda f: f.enum_type.pop(), "enum shop.v1.Size was removed"),
    "a value removed": (lambda f: f.enum_type[0].value.pop(), "Size: value 1 SIZE_SMALL was removed"),
    "a value renumbered": (
        lambda f: put(f.enum_type[0].value[1], number=2),
        "Size: value 1 SIZE_SMALL was renumbered to 2",
    ),
    "a value renamed": (
        lambda f: put(f.enum_type[0].value[1], name="SIZE_TINY"),
        "Size: value 1 SIZE_SMALL was renamed to SIZE_TINY",
    ),
    "a service removed": (lambda f: f.service.pop(), "service shop.v1.ShopService was removed"),
    "a method removed": (lambda f: f.service[0].method.pop(), "ShopService: method Buy was removed"),
    "another request": (
        lambda f: put(f.service[0].method[0], input_type=".shop.v1.BuyResponse"),
        "ShopService: method Buy: request was shop.v1.BuyRequest, is shop.v1.BuyResponse",
    ),
    "another response": (
        lambda f: put(f.service[0].method[0], output_type=".shop.v1.BuyRequest"),
        "ShopService: method Buy: response was shop.v1.BuyResponse, is shop.v1.BuyRequest",
    ),
    "a stream of responses": (
        lambda f: put(f.service[0].method[0], server_streaming=True),
        "ShopService: method Buy: server streaming was False, is True",
    ),
    "a stream of requests": (
        lambda f: put(f.service[0].method[0], client_streaming=True),
        "ShopService: method Buy: client streaming was False, is True",
    ),
    "another file": (
        lambda f: put(f, name="shop/v1/till.proto"),
        "message shop.v1.BuyRequest was moved to shop/v1/till.proto",
    ),
    "another syntax": (lambda f: put(f, syntax="proto2"), "syntax was proto3, is proto2"),
    "another package": (lambda f: put(f, package="shop.v2"), "service shop.v1.ShopService was removed"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_is_named_with_its_file(name: str) -> None:
    """The line says where, what it was and what it is."""
    change, line = BREAKS[name]
    found = changed(change)
    assert any(finding.startswith("shop/v1/shop.proto: ") and finding.endswith(line) for finding in found), found


ADDITIONS: dict[str, Change] = {
    "a field": lambda f: f.message_type[0].field.add(name="gift", number=5, type=8, label=1),
    "a field before the others": lambda f: f.message_type[0].field.insert(
        0, FieldDescriptorProto(name="gift", number=5, type="TYPE_BOOL", label="LABEL_OPTIONAL")
    ),
    "a message": lambda f: f.message_type.add(name="Gift"),
    "an enum": lambda f: f.enum_type.add(name="Colour"),
    "a value": lambda f: f.enum_type[0].value.add(name="SIZE_LARGE", number=2),
    "a second name of a value": lambda f: f.enum_type[0].value.add(name="SIZE_TINY", number=1),
    "a method": lambda f: f.service[0].method.add(name="Return"),
    "a service": lambda f: f.service.add(name="TillService"),
    "a wider reservation": lambda f: put(f.message_type[0].reserved_range[0], end=20),
    "a deprecation": lambda f: put(f.message_type[0].field[0].options, deprecated=True),
    "an option for another language": lambda f: put(f.options, go_package="shop"),
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_additions_pass(name: str) -> None:
    """Nobody who knows nothing of them is hurt."""
    assert changed(ADDITIONS[name]) == []


def released() -> FileDescriptorSet:
    """The last release, as it is committed."""
    sets = sorted((ROOT / "protos" / "released").glob("*.binpb"))
    return FileDescriptorSet.FromString(sets[-1].read_bytes())


@given(st.data())
def test_whatever_is_taken_out_of_our_own_protos_is_found(data: st.DataObject) -> None:
    """A message, a field, an enum's value, a method: each is missed by its name."""
    before, after = released(), released()
    file = data.draw(st.sampled_from(list(after.file)))
    kind = data.draw(st.sampled_from(["message_type", "service"]))
    inside = data.draw(st.sampled_from(list(getattr(file, kind))))
    parts = inside.method if kind == "service" else inside.field
    if parts and data.draw(st.booleans()):
        name = f'"{parts[-1].name}"' if kind == "message_type" else parts[-1].name
        del parts[-1]
    else:
        name = inside.name
        getattr(file, kind).remove(inside)
    found = breaks(before, after)
    assert any(name in finding and "was removed" in finding for finding in found)
    assert breaks(after, before) == [], "the other way round it is an addition"


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m protos` over the protos of a folder."""
    command = [sys.executable, "-m", "protos", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(root)})


def test_the_protos_as_they_are_break_nobody() -> None:
    """Our own contracts against the last release, by the command that `make breaking` runs."""
    ran = run(ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "nothing breaks against" in ran.stdout


def test_the_command_compares_with_the_highest_release_and_fails_on_a_break(tmp_path: Path) -> None:
    """A method taken out of a proto is told and exits 1; once that is a release of its own, nothing breaks."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    proto = tmp_path / "protos" / "nanoclaw" / "gateway" / "v1" / "gateway.proto"
    kept = [line for line in proto.read_text().splitlines() if "rpc GetStatus(" not in line]
    proto.write_text("\n".join(kept))
    ran = run(tmp_path)
    assert ran.returncode == 1
    line = "nanoclaw/gateway/v1/gateway.proto: service nanoclaw.gateway.v1.GatewayService: method GetStatus was removed"
    assert line in ran.stdout.splitlines()
    assert run(tmp_path, "--release", "99.10.0").returncode == 0
    assert "nothing breaks against 99.10.0" in run(tmp_path).stdout
    assert run(tmp_path, "--release", "99.10.0").returncode == 2, "a release never changes"
    assert run(tmp_path, "--release", "next").returncode == 2
