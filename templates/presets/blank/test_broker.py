"""What is special about this broker: add a test for each thing that your users rely on.

The pack lends its fixtures: `node` makes connected nodes, `proxy` breaks connections, `topic` is a fresh topic.

    @pytest.mark.clause("E3")
    async def test_a_user_without_rights_is_refused(node: MakeNode) -> None:
        connector = await node(username="nobody")
        with pytest.raises(contract.PublishRefusedError):
            await connector.publish("secret", 1)
"""
