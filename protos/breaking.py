"""What breaks for somebody who was built against another version of the protos, by their descriptors, as buf does it.

A finding is what goes wrong on the wire, in JSON or in generated code; an addition is none.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

T = TypeVar("T")


class Named(NamedTuple):
    """Everything that a set declares, by full name, with the file that it is in."""

    messages: dict[str, tuple[str, DescriptorProto]]
    enums: dict[str, tuple[str, EnumDescriptorProto]]
    services: dict[str, tuple[str, ServiceDescriptorProto]]


def breaks(released: FileDescriptorSet, current: FileDescriptorSet) -> list[str]:
    """One line for each thing that clients of `released` may rely on and that `current` does not keep; sorted."""
    old, new = _named(released), _named(current)
    found = [
        *_declarations("message", old.messages, new.messages, _message),
        *_declarations("enum", old.enums, new.enums, _enum),
        *_declarations("service", old.services, new.services, _service),
    ]
    syntaxes = {file.name: file.syntax for file in current.file}
    for file in released.file:
        if syntaxes.get(file.name, file.syntax) != file.syntax:
            found.append(f"{file.name}: syntax was {file.syntax or 'proto2'}, is {syntaxes[file.name] or 'proto2'}")
    return sorted(found)


def _named(files: FileDescriptorSet) -> Named:
    named = Named({}, {}, {})

    def add(prefix: str, file: str, messages: Iterable[DescriptorProto], enums: Iterable[EnumDescriptorProto]) -> None:
        for enum in enums:
            named.enums[f"{prefix}.{enum.name}"] = (file, enum)
        for message in messages:
            named.messages[f"{prefix}.{message.name}"] = (file, message)
            add(f"{prefix}.{message.name}", file, message.nested_type, message.enum_type)

    for file in files.file:
        add(file.package, file.name, file.message_type, file.enum_type)
        named.services.update({f"{file.package}.{one.name}": (file.name, one) for one in file.service})
    return named


def _declarations(
    kind: str,
    old: Mapping[str, tuple[str, T]],
    new: Mapping[str, tuple[str, T]],
    inside: Callable[[T, T], Iterator[str]],
) -> Iterator[str]:
    for name, (file, before) in old.items():
        if name not in new:
            yield f"{file}: {kind} {name} was removed"
            continue
        now_in, after = new[name]
        if now_in != file:
            yield f"{file}: {kind} {name} was moved to {now_in}"
        for finding in inside(before, after):
            yield f"{file}: {kind} {name}: {finding}"


def _message(old: DescriptorProto, new: DescriptorProto) -> Iterator[str]:
    numbers = {field.number: field for field in new.field}
    names = {field.name: field.number for field in new.field}
    for field in old.field:
        label = f'field {field.number} "{field.name}"'
        if field.name in names and names[field.name] != field.number:
            yield f"{label} was renumbered to {names[field.name]}"
        elif field.number not in numbers:
            yield f"{label} was removed"
        elif numbers[field.number].name != field.name:
            yield f'{label} was renamed to "{numbers[field.number].name}"'
        if field.number in numbers:
            after = numbers[field.number]
            for what, was, now in _traits(field, old, after, new):
                if was != now:
                    yield f"{label}: {what} was {was}, is {now}"
    yield from _reserved(old, new, 1)


def _traits(
    old: FieldDescriptorProto, old_in: DescriptorProto, new: FieldDescriptorProto, new_in: DescriptorProto
) -> Iterator[tuple[str, str, str]]:
    yield "type", _type(old), _type(new)
    yield "cardinality", _cardinality(old), _cardinality(new)
    yield "oneof", _oneof(old, old_in), _oneof(new, new_in)
    if old.name == new.name:
        yield "JSON name", old.json_name, new.json_name
    yield "packed", str(_packed(old)), str(_packed(new))


def _type(field: FieldDescriptorProto) -> str:
    return field.type_name.lstrip(".") or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _cardinality(field: FieldDescriptorProto) -> str:
    if field.proto3_optional:
        return "optional"
    return FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower().replace("optional", "singular")


def _oneof(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """The oneof that a field is in; not the one that an `optional` is made of."""
    declared = field.HasField("oneof_index") and not field.proto3_optional
    return message.oneof_decl[field.oneof_index].name if declared else "none"


def _packed(field: FieldDescriptorProto) -> bool:
    return field.options.packed if field.options.HasField("packed") else True


def _enum(old: EnumDescriptorProto, new: EnumDescriptorProto) -> Iterator[str]:
    numbers: dict[int, set[str]] = {}
    for value in new.value:
        numbers.setdefault(value.number, set()).add(value.name)
    names = {value.name: value.number for value in new.value}
    for value in old.value:
        label = f"value {value.number} {value.name}"
        if value.name in names and names[value.name] != value.number:
            yield f"{label} was renumbered to {names[value.name]}"
        elif value.number not in numbers:
            yield f"{label} was removed"
        elif value.name not in numbers[value.number]:
            yield f"{label} was renamed to {' and '.join(sorted(numbers[value.number]))}"
    yield from _reserved(old, new, 0)


def _reserved(
    old: DescriptorProto | EnumDescriptorProto, new: DescriptorProto | EnumDescriptorProto, open_end: int
) -> Iterator[str]:
    """open_end: 1 where the end of a range is not of it, as in messages; 0 where it is, as in enums."""
    for name in sorted(set(old.reserved_name) - set(new.reserved_name)):
        yield f'name "{name}" is reserved no more'
    kept = [(each.start, each.end) for each in new.reserved_range]
    for each in old.reserved_range:
        if not any(start <= each.start and each.end <= end for start, end in kept):
            yield f"numbers {each.start} to {each.end - open_end} are reserved no more"


def _service(old: ServiceDescriptorProto, new: ServiceDescriptorProto) -> Iterator[str]:
    methods = {method.name: method for method in new.method}
    for before in old.method:
        after = methods.get(before.name)
        if after is None:
            yield f"method {before.name} was removed"
            continue
        for what, was, now in (
            ("request", before.input_type.lstrip("."), after.input_type.lstrip(".")),
            ("response", before.output_type.lstrip("."), after.output_type.lstrip(".")),
            ("client streaming", str(before.client_streaming), str(after.client_streaming)),
            ("server streaming", str(before.server_streaming), str(after.server_streaming)),
        ):
            if was != now:
                yield f"method {before.name}: {what} was {was}, is {now}"
