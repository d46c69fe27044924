"""What is special about this broker: add a test for each thing that your users rely on.

`tests.contract.public` has all that such a test may use of the pack, and the pack has fixtures for it: `node` makes
connected nodes, `serve` starts another server, `proxy` breaks connections, `topic` is a fresh topic.

First of all, prove that a refusal of your broker becomes an error; the pack can only simulate that. For a broker that
lets the user `reader` in, and refuses what that user publishes:

    import pytest

    from .contract.public import PATIENCE, MakeNode
    from .subject import contract

    @pytest.mark.clause("E3")
    async def test_a_user_without_rights_is_refused(node: MakeNode, topic: str) -> None:
        reader = await node(username="reader", password="s3cr3t", publish_timeout=2 * PATIENCE)
        with pytest.raises(contract.PublishRefusedError):
            await reader.publish(topic, "refused")

If the broker can refuse a subscription, too, prove that in the same way, with `SubscribeRefusedError`. If the connector
has a method `leave`, prove that the broker has nothing left of a node that was closed.
"""
