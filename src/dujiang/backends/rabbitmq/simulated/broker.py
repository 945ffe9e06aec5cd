"""Broker on a simulated RabbitMQ: the port `broker` for the drill, behind a network that fails.

How each promise of messaging/broker.py is kept: as by backends/rabbitmq/broker.py, over the model (model.py) in place of a
server, and with every fault that the model draws. The node's `simulation` (kernel/simulation.py) supplies time and
chance, and holds the model under the name `rabbit`. Without one this adapter refuses to start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dujiang.backends.rabbitmq.simulated.link import URL, ModelLink
from dujiang.backends.rabbitmq.simulated.model import RabbitModel
from dujiang.messaging.broker import BrokerRefused
from dujiang.messaging.carried import CarriedBroker

if TYPE_CHECKING:
    from collections.abc import Callable

    from dujiang.data.database import Database
    from dujiang.kernel.node import Node
    from dujiang.kernel.simulation import Simulation

NAME = "rabbit"


class ModelCarrier:
    """Connects a node to the model.

    Args:
        model: The broker of the simulated cluster.
        node: The running copy.
        simulation: Its machine.
    """

    def __init__(self, model: RabbitModel, node: Node, simulation: Simulation) -> None:
        self._model = model
        self._node = node
        self._simulation = simulation

    async def connect(self, lost: Callable[[], None]) -> ModelLink:
        """A new connection. Raises BrokerUnreachable."""
        await self._simulation.hop("rabbit.connect")
        return self._model.connect(self._node, self._simulation, lost)


class SimulatedBroker(CarriedBroker):
    """One node's way to the simulated broker.

    Args:
        url: `simulated:`.
        node: Its simulation holds the broker under the name `rabbit`.
        database: Where outbox and work are.

    Raises:
        BrokerRefused: Outside a simulation.
    """

    def __init__(self, url: str, node: Node, database: Database) -> None:
        if node.simulation is None:
            how = "set `broker` to `database:`, or to the URL of a server"
            raise BrokerRefused(url=url, what="a real process", why="only `dujiang drill` can use it", how=how)
        model = node.simulation.shared(NAME, RabbitModel)
        super().__init__(URL, node, database, ModelCarrier(model, node, node.simulation))
