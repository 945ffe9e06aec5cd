"""Bugs in the modules of users: the shop, and the small applications beside this file."""

from __future__ import annotations

from bench.planted.bug import COUPONS, LEDGER, PAYMENTS, SEATS, SHOP, WALLET, Bug

ORDERS = "src/dujiang/systems/shop/orders.py"
APPS = "bench/planted/apps"

OF_SHOP = (
    Bug(
        name="stock_read_and_written_back",
        says="The stock is read anyway for the message, so the new number can be computed from it.",
        where=ORDERS,
        old="""        if (await tx.execute(CLAIM, {"of": sku, "quantity": quantity})).rowcount == 0:
            left = (await tx.execute(LEFT_OF, {"of": sku})).scalar_one()
""",
        new="""        found = (await tx.execute(STOCK, {"of": sku})).one()
        left = found.on_hand - found.reserved - found.pending
        grown = update(stock).where(stock.c.sku == sku).values(pending=found.pending + quantity)
        if left < quantity or (await tx.execute(grown)).rowcount == 0:
""",
        app=SHOP,
        breaks="Stock is conserved: no update is lost.",
        shows="At READ COMMITTED two orders of one product read the same number before either writes.",
    ),
    Bug(
        name="reservation_without_condition",
        says="The order's acceptance has looked at the stock already.",
        where=ORDERS,
        old='.where(stock.c.sku == bindparam("of"), stock.c.on_hand - stock.c.reserved >= bindparam("quantity"))',
        new='.where(stock.c.sku == bindparam("of"))',
        app=SHOP,
        breaks="Never oversold.",
        shows="The stock is lowered below what is pending between an order's acceptance and its reservation.",
    ),
    Bug(
        name="stock_lowered_after_a_look",
        says="A look and then a plain update give a better message.",
        where=ORDERS,
        old="""    change = update(stock).where(stock.c.sku == sku, stock.c.reserved <= body.on_hand).values(on_hand=body.on_hand)
    changed = (await tx.execute(change)).rowcount
""",
        new="""    found = (await tx.execute(STOCK, {"of": sku})).one_or_none()
    changed = found is not None and found.reserved <= body.on_hand
    if changed:
        await tx.execute(update(stock).where(stock.c.sku == sku).values(on_hand=body.on_hand))
""",
        app=SHOP,
        breaks="Never oversold.",
        shows="At READ COMMITTED a reservation commits between the look and the update.",
    ),
    Bug(
        name="refused_order_keeps_its_claim",
        says="The order is refused; its stock was not reserved, so there is nothing to give back.",
        where=ORDERS,
        old="""        for row in lines:
            await tx.execute(UNCLAIM, {"of": row.sku, "quantity": row.quantity})
""",
        new="",
        app=SHOP,
        breaks="Stock is conserved: what is refused is undone.",
        shows="The stock is lowered below what is pending: the refused order's quantity stays pending.",
    ),
)

OF_WALLET = (
    Bug(
        name="balance_read_and_written_back",
        says="Money is computed in Python, where it is exact.",
        where=f"{APPS}/wallet.py",
        old="        if (await tx.execute(covered.values(balance=account.c.balance + change))).rowcount == 0:\n",
        new="""        reads = select(account.c.balance).where(account.c.name == name)
        held = (await tx.execute(reads)).scalar_one_or_none()
        if held is None or (await tx.execute(covered.values(balance=held + change))).rowcount == 0:
""",
        app=WALLET,
        breaks="Money is conserved: no update is lost.",
        shows="At READ COMMITTED two payments that begin with the same account read one balance before either writes.",
    ),
    Bug(
        name="cover_looked_at_first",
        says="A look before the update gives a better message.",
        where=f"{APPS}/wallet.py",
        old="        covered = update(account).where(account.c.name == name, account.c.balance >= -change)\n",
        new="""        reads = select(account.c.balance).where(account.c.name == name)
        held = (await tx.execute(reads)).scalar_one_or_none()
        if held is not None and held < -change:
            raise NotCovered(f"{name} has less than {-change}", name=name)
        covered = update(account).where(account.c.name == name)
""",
        app=WALLET,
        breaks="No account is overdrawn.",
        shows="At READ COMMITTED two payments of alice's last money both see that it is there; hers is the first row of each.",
    ),
    Bug(
        name="both_parts_rounded",
        says="The payee gets 98.5 percent, rounded like the fee.",
        where=f"{APPS}/wallet.py",
        old="received = body.amount - fee",
        new="received = (body.amount * (1 - FEE)).quantize(CENT, ROUND_HALF_UP)",
        app=WALLET,
        breaks="Money is conserved to the cent.",
        shows="No fault needed: of 1.00 the fee is 0.02 and the payee gets 0.99.",
    ),
    Bug(
        name="points_remembered_in_the_process",
        says="A message may come twice, so the handler remembers what it has done.",
        where=f"{APPS}/wallet.py",
        old="    await tx.execute(update(account).where(account.c.name == event.source).values(points=",
        new="""    given = payment.info.setdefault("given", set())
    if event.payment_id in given:
        return
    given.add(event.payment_id)
    await tx.execute(update(account).where(account.c.name == event.source).values(points=""",
        app=WALLET,
        breaks="A handler may run again from its start; each event has its effect.",
        shows="The handler's transaction is sent back, or fails once, after the note in memory: the second run does nothing, and"
        " the event counts as handled. The law sees it an hour later.",
    ),
)

OF_COUPONS = (
    Bug(
        name="look_before_insert_without_index",
        says="The look before the insert already tells who has redeemed; an index costs writes.",
        where=f"{APPS}/coupons.py",
        old="""    UniqueConstraint("code", "customer", name="coupons_once_each"),
""",
        new="",
        app=COUPONS,
        breaks="A customer redeems a coupon once.",
        shows="At READ COMMITTED two requests of one customer, in two batches, both look before either inserts.",
    ),
    Bug(
        name="refused_redemption_leaves_its_traces",
        says="The errors are caught, so nothing needs a savepoint.",
        where=f"{APPS}/coupons.py",
        old="""        async with tx.savepoint():
            tx.publish(CouponRedeemed(redemption_id=redemption_id, code=body.code))
            left = update(coupon).where(coupon.c.code == body.code, coupon.c.used < coupon.c.quota)
            if (await tx.execute(left.values(used=coupon.c.used + 1))).rowcount == 0:
                raise UsedUp(f"{body.code} cannot be redeemed any more")
            await tx.execute(insert(redemption), row)
""",
        new="""        tx.publish(CouponRedeemed(redemption_id=redemption_id, code=body.code))
        left = update(coupon).where(coupon.c.code == body.code, coupon.c.used < coupon.c.quota)
        if (await tx.execute(left.values(used=coupon.c.used + 1))).rowcount == 0:
            raise UsedUp(f"{body.code} cannot be redeemed any more")
        await tx.execute(insert(redemption), row)
""",
        app=COUPONS,
        breaks="A refusal leaves nothing behind; one member of a batch does not touch the others.",
        shows="No fault needed: the event of a redemption that was refused as used up is handled. In a race for one customer the"
        " failed insert also takes the whole batch along.",
    ),
    Bug(
        name="quota_looked_at_first",
        says="A look before the update gives a better message.",
        where=f"{APPS}/coupons.py",
        old="            left = update(coupon).where(coupon.c.code == body.code, coupon.c.used < coupon.c.quota)\n",
        new="""            found = (await tx.execute(select(coupon).where(coupon.c.code == body.code))).one_or_none()
            if found is None or found.used >= found.quota:
                raise UsedUp(f"{body.code} cannot be redeemed any more")
            left = update(coupon).where(coupon.c.code == body.code)
""",
        app=COUPONS,
        breaks="A coupon is not redeemed more often than its quota.",
        shows="At READ COMMITTED the first members of two batches both see the last redemption free.",
    ),
)

OF_SEATS = (
    Bug(
        name="seat_looked_at_first",
        says="The look has shown that the seat is the customer's.",
        where=f"{APPS}/seats.py",
        old='    if (await tx.execute(update(seat).where(this, mine).values(status="sold"))).rowcount == 0:\n',
        new="""    held = (await tx.execute(select(seat.c.seat).where(this, mine))).one_or_none()
    if held is None or (await tx.execute(update(seat).where(this).values(status="sold"))).rowcount == 0:
""",
        app=SEATS,
        breaks="A seat is sold once.",
        shows="At READ COMMITTED a customer's two clicks, without a key or with two, both see the seat held.",
    ),
    Bug(
        name="hold_by_the_wall_clock",
        says="Ten minutes from now.",
        where=f"{APPS}/seats.py",
        old="    until = tx.now + HOLD\n",
        new="""    from datetime import UTC, datetime

    until = datetime.now(UTC) + HOLD
""",
        app=SEATS,
        breaks="A hold lasts ten minutes on every node; a run is replayed by its seed.",
        shows="No fault needed under a simulated clock; on machines, a clock that differs from the node's, or a transaction that"
        " ran twice.",
    ),
    Bug(
        name="sold_seat_lapses",
        says="Whatever the status, a seat whose time is over is free.",
        where=f"{APPS}/seats.py",
        old='lapsed = and_(seat.c.status == "held", or_(seat.c.held_until < tx.now, seat.c.holder == body.customer))',
        new='lapsed = or_(seat.c.held_until < tx.now, and_(seat.c.status == "held", seat.c.holder == body.customer))',
        app=SEATS,
        breaks="A seat is sold once.",
        shows="Time alone: a sold seat is asked for again more than ten minutes after its hold.",
    ),
    Bug(
        name="line_without_order",
        says="The number comes from the table, so the order of events does not matter.",
        where=f"{APPS}/seats.py",
        old="@seats.react(SeatSold, ordered=True)",
        new="@seats.react(SeatSold)",
        app=SEATS,
        breaks="Numbers are given once.",
        shows="At READ COMMITTED two events of one show are handled at once, in two transactions, and read the same last number.",
    ),
)

OF_LEDGER = (
    Bug(
        name="key_is_the_entry",
        says="The entry is what the event is about, so it is the key.",
        where=f"{APPS}/ledger.py",
        old="""    account: str = key()
    entry_id: Id
""",
        new="""    account: str
    entry_id: Id = key()
""",
        app=LEDGER,
        breaks="Lines follow entries in commit order.",
        shows="Two entries of one account: the first one's handler fails once, or waits on another node, and the second writes"
        " its line.",
    ),
    Bug(
        name="any_line_is_the_last",
        says="The newest line comes first anyway.",
        where=f"{APPS}/ledger.py",
        old="lines.order_by(line.c.number.desc()).limit(1)",
        new="lines.limit(1)",
        app=LEDGER,
        breaks="Each entry gets its line; only poison is dead.",
        shows="No fault needed: three entries of one account, in whatever order unordered rows come: the number is"
        " taken, or the balance is not the last one's.",
    ),
    Bug(
        name="entry_number_read_first",
        says="The number is read, one is added, and it is written back.",
        where=f"{APPS}/ledger.py",
        old="    grown = update(account).where(account.c.name == body.account).values(entries=account.c.entries + 1)\n",
        new="""    reads = select(account.c.entries).where(account.c.name == body.account)
    before = (await tx.execute(reads)).scalar_one_or_none() or 0
    grown = update(account).where(account.c.name == body.account).values(entries=before + 1)
""",
        app=LEDGER,
        breaks="Entries are numbered without a twin.",
        shows="At READ COMMITTED two entries of one account read the same number before either writes.",
    ),
    Bug(
        name="last_line_in_memory",
        says="The process wrote the last line itself, so it need not be read for each event.",
        where=f"{APPS}/ledger.py",
        old="""    last = (await tx.execute(lines.order_by(line.c.number.desc()).limit(1))).one_or_none()
    number, balance = (1, event.amount) if last is None else (last.number + 1, last.balance + event.amount)
""",
        new="""    written = line.info.setdefault("last", {})
    last = written.get(event.account)
    if last is None:
        last = (await tx.execute(lines.order_by(line.c.number.desc()).limit(1))).one_or_none() or (0, Decimal(0))
    number, balance = last[0] + 1, last[1] + event.amount
    written[event.account] = (number, balance)
""",
        app=LEDGER,
        breaks="A handler may run again from its start, on any node.",
        shows="A transaction is sent back, or its node is cut off, after the line was noted in memory: a number is skipped.",
    ),
)

OF_PAYMENTS = (
    Bug(
        name="new_key_for_each_try",
        says="A try is a request of its own, so it has a key of its own.",
        where=f"{APPS}/payments.py",
        old="    reference = await charge_card(call.key, event.amount)\n",
        new="""    from dujiang import now

    reference = await charge_card(f"{event.payment_id}-{now().isoformat()}", event.amount)
""",
        app=PAYMENTS,
        breaks="An external call carries a stable key.",
        shows="A kill, or a lost reply, between the bank's answer and `settle`: the second try charges again.",
    ),
    Bug(
        name="key_of_customer_and_amount",
        says="The same customer and the same amount are the same payment.",
        where=f"{APPS}/payments.py",
        old="charge_card(call.key, event.amount)",
        new='charge_card(f"{event.customer}-{event.amount}", event.amount)',
        app=PAYMENTS,
        breaks="A charge of the bank pays one payment.",
        shows="No fault needed: ann owes 20.00 twice.",
    ),
    Bug(
        name="settled_twice",
        says="The bank has answered, so the payment is settled.",
        where=f"{APPS}/payments.py",
        old='update(payment).where(payment.c.payment_id == body.payment_id, payment.c.status == "due")',
        new="update(payment).where(payment.c.payment_id == body.payment_id)",
        app=PAYMENTS,
        breaks="A reaction that runs again has one effect on the database.",
        shows="A kill between `settle` and the end of the reaction, or a second delivery: the amount is spent twice.",
    ),
    Bug(
        name="declined_payment_keeps_its_hold",
        says="A declined payment moves no money.",
        where=f"{APPS}/payments.py",
        old='    moved = {"held": customer.c.held - found.amount}\n',
        new="""    if not body.reference:
        return
    moved = {"held": customer.c.held - found.amount}
""",
        app=PAYMENTS,
        breaks="What failed is undone: the credit is free again.",
        shows="No fault needed: the bank declines 700.00.",
    ),
    Bug(
        name="bank_asked_inside_the_transaction",
        says="In one transaction the charge and its record cannot come apart.",
        where=f"{APPS}/payments.py",
        old="""    reference = await charge_card(call.key, event.amount)
    await app.run(settle, Settlement(payment_id=event.payment_id, reference=reference))


@payments.write()
async def settle(tx: Tx, body: Settlement) -> None:
""",
        new="""    await app.run(settle, Settlement(payment_id=event.payment_id, reference=call.key))


@payments.write()
async def settle(tx: Tx, body: Settlement) -> None:
    reference = await charge_card(body.reference, await amount_of(tx, body.payment_id))
    body = Settlement(payment_id=body.payment_id, reference=reference)
    await write_down(tx, body)


async def amount_of(tx: Tx, payment_id: int) -> Decimal:
    return (await tx.execute(select(payment.c.amount).where(payment.c.payment_id == payment_id))).scalar_one()


async def write_down(tx: Tx, body: Settlement) -> None:
""",
        app=PAYMENTS,
        breaks="No transaction waits for the world outside.",
        shows="No fault needed: a slow bank holds the one writer, and every other write waits behind it.",
    ),
)
MODULES = (*OF_SHOP, *OF_WALLET, *OF_COUPONS, *OF_SEATS, *OF_LEDGER, *OF_PAYMENTS)
