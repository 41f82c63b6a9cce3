"""Products: active, paused, killed, and who decides that."""


async def test_a_paused_product_keeps_its_tasks_ready(kernel, people, refused) -> None:
    """None enters DOING, from wherever; when it goes on, they do."""
    await kernel.product("Shop")
    ready = await kernel.at("READY", product="Shop")
    review = await kernel.at("REVIEW", product="Shop", gate="SECURITY")
    await kernel.change_product(people.main, "Shop", status="PAUSED")
    for task, who in ((ready, people.dispatcher), (ready, people.admin), (review, people.security)):
        with refused("PRODUCT_PAUSED"):
            await kernel.move(who, task, "DOING")
    assert kernel.get(ready).state == "READY"
    await kernel.change_product(people.main, "Shop", status="ACTIVE")
    assert (await kernel.move(people.dispatcher, ready, "DOING")).state == "DOING"


async def test_a_killed_product_starts_nothing(kernel, people, refused) -> None:
    """What was under way may be handed in and ended."""
    await kernel.product("Shop")
    doing = await kernel.at("DOING", product="Shop")
    ready = await kernel.at("READY", product="Shop")
    await kernel.change_product(people.admin, "Shop", status="KILLED")
    with refused("PRODUCT_KILLED"):
        await kernel.move(people.dispatcher, ready, "DOING")
    assert (await kernel.walk(doing, "DONE")).state == "DONE"


async def test_only_an_admin_kills_and_revives(kernel, people, refused) -> None:
    """main pauses and resumes; life and death are for persons."""
    await kernel.product("Shop", people.main)
    await kernel.change_product(people.main, "Shop", status="PAUSED")
    with refused("NOT_PERMITTED"):
        await kernel.change_product(people.main, "Shop", status="KILLED")
    await kernel.change_product(people.admin, "Shop", status="KILLED")
    for status in ("ACTIVE", "PAUSED"):
        with refused("NOT_PERMITTED"):
            await kernel.change_product(people.main, "Shop", status=status)
    await kernel.change_product(people.main, "Shop", description="renaming the dead is harmless")
    product, changed = await kernel.change_product(people.admin, "Shop", status="ACTIVE")
    assert changed
    assert product.status == "ACTIVE"


async def test_trust_main_lets_main_kill_and_revive(open_kernel, people) -> None:
    """For a founder alone who wants it so."""
    kernel = await open_kernel(trust_main=True)
    await kernel.product("Shop")
    await kernel.change_product(people.main, "Shop", status="KILLED")
    assert (await kernel.change_product(people.main, "Shop", status="ACTIVE"))[0].status == "ACTIVE"


async def test_a_name_belongs_to_one_product(kernel, people, refused) -> None:
    """Neither a name nor an id is taken twice, and none is taken for the other."""
    shop = await kernel.product("Shop", product_id="p1")
    for name, own_id in (("Shop", ""), ("Other", "p1"), ("p1", ""), ("Other", "Shop")):
        with refused("PRODUCT_EXISTS"):
            await kernel.product(name, product_id=own_id)
    await kernel.product("Site")
    with refused("PRODUCT_EXISTS"):
        await kernel.change_product(people.admin, "Site", name="Shop")
    renamed, _ = await kernel.change_product(people.admin, "Shop", name="p1")
    assert renamed.id == shop.id


async def test_a_change_is_compared_with_the_version(kernel, people, refused) -> None:
    """Stale ones change nothing; what is so already is no change."""
    await kernel.product("Shop")
    product, changed = await kernel.change_product(people.admin, "Shop", risk="HIGH", expected_version=1)
    assert (changed, product.version) == (True, 2)
    with refused("STALE_VERSION"):
        await kernel.change_product(people.admin, "Shop", risk="LOW", expected_version=1)
    product, changed = await kernel.change_product(people.admin, "Shop", risk="HIGH")
    assert (changed, product.version) == (False, 2)
    with refused("PRODUCT_NOT_FOUND"):
        await kernel.change_product(people.admin, "Nowhere", risk="LOW")


async def test_products_are_in_the_log(kernel, people) -> None:
    """Their facts belong to no task and name the product."""
    product = await kernel.product("Shop")
    await kernel.change_product(people.admin, "Shop", status="PAUSED")
    assert [(row["action"], row["subject"], row["task_id"]) for row in kernel.log()] == [
        ("create_product", product.id, ""),
        ("update_product", product.id, ""),
    ]
