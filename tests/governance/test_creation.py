"""Creation: scopes, products, and what is refused before it is a task."""

import pytest


async def test_a_task_begins_in_the_inbox_with_its_defaults(kernel, people) -> None:
    """P2, no gate, the company's, normal risk, version 1, policy version, a trace of its own."""
    task = await kernel.create()
    assert (task.state, task.priority, task.gate, task.scope, task.risk) == ("INBOX", "P2", "NONE", "COMPANY", "NORMAL")
    assert (task.version, task.round, task.policy_version, task.created_by) == (1, 0, "1.0.0", "operator:founder")
    other = await kernel.create()
    assert task.traceparent[3:35] != other.traceparent[3:35]
    row = kernel.log(task)[0]
    assert (row["action"], row["to_state"], row["trace_id"]) == ("create", "INBOX", task.traceparent[3:35])
    assert kernel.get(task) == task


async def test_an_id_of_ones_own_is_taken_once(kernel, refused) -> None:
    """A second task of that id is refused; an id is no path."""
    task = await kernel.create(id="login-1")
    assert task.id == "login-1"
    with refused("TASK_EXISTS"):
        await kernel.create(id="login-1")
    for name in ("../x", ".hidden", "a b", "x" * 129):
        with refused("INVALID_FIELD"):
            await kernel.create(id=name)


async def test_all_malformed_fields_come_back_at_once(kernel, refused) -> None:
    """One refusal names every field that is wrong."""
    with refused("INVALID_FIELD") as caught:
        await kernel.create(
            title="",
            task_type="",
            metadata="[1]",
            human_gate=True,
            id="/",
            assigned_group="Dev",
            description="x" * 70000,
        )
    fields = {violation.field for violation in caught.error.violations}
    assert fields == {"title", "task_type", "metadata_json", "human_gate", "id", "assigned_group", "description"}


@pytest.mark.parametrize("metadata", ["[]", "1", "{", '{"a":NaN}', "[" * 5000, "nul"])
async def test_metadata_is_an_object(kernel, refused, metadata: str) -> None:
    """Neither nonsense nor depth gets in."""
    with refused("INVALID_FIELD"):
        await kernel.create(metadata=metadata)


async def test_scope_follows_the_product(kernel, people, refused) -> None:
    """None given → PRODUCT with a product, else COMPANY; COMPANY with a product is a contradiction."""
    product = await kernel.product("Shop")
    assert (await kernel.create(product_id=product.id)).scope == "PRODUCT"
    assert (await kernel.create(product="Shop")).product_id == product.id
    assert (await kernel.create(product=product.id)).product_id == product.id
    assert (await kernel.create(scope="COMPANY")).scope == "COMPANY"
    with refused("SCOPE_MISMATCH"):
        await kernel.create(product_id=product.id, scope="COMPANY")


async def test_product_scope_without_a_product_is_coerced_and_logged(kernel) -> None:
    """It becomes the company's, and the log says so."""
    task = await kernel.create(scope="PRODUCT")
    assert task.scope == "COMPANY"
    assert kernel.actions(task) == ["create", "coerce_scope"]
    assert '"from":"PRODUCT"' in kernel.log(task)[1]["change"]


async def test_id_and_name_of_a_product_must_agree(kernel, refused) -> None:
    """Two different products in one request are a mistake."""
    shop = await kernel.product("Shop")
    await kernel.product("Site")
    assert (await kernel.create(product_id=shop.id, product="Shop")).product_name == "Shop"
    with refused("PRODUCT_MISMATCH"):
        await kernel.create(product_id=shop.id, product="Site")


@pytest.mark.parametrize(
    "title", ["two\nlines", "a\x1b[31mred", "bell\x07", "nul\x00", "c1\x9b31m", "tab\there", "x\u2028y", "x\u2029y"]
)
async def test_a_title_is_one_line_that_can_stand_anywhere(kernel, people, refused, title: str) -> None:
    """Tasks' titles and products' names: no control characters; every other one of Unicode."""
    with refused("INVALID_FIELD"):
        await kernel.create(title=title)
    with refused("INVALID_FIELD"):
        await kernel.product(title)
    task = await kernel.create(title="名前 🎉 naïve\u00a0e\u0301 — “quoted”")
    with refused("INVALID_FIELD"):
        await kernel.update(people.admin, task, title=title)


async def test_an_unknown_or_killed_product_gets_no_tasks(kernel, people, refused) -> None:
    """A paused one does: they wait in READY."""
    with refused("UNKNOWN_PRODUCT"):
        await kernel.create(product="Nowhere")
    product = await kernel.product("Shop")
    await kernel.change_product(people.admin, product.id, status="PAUSED")
    await kernel.create(product="Shop")
    await kernel.change_product(people.admin, product.id, status="KILLED")
    with refused("PRODUCT_KILLED"):
        await kernel.create(product="Shop")
    with refused("PRODUCT_KILLED"):
        await kernel.create(product_id=product.id)
