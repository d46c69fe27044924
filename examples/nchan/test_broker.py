"""What is special about Nchan."""

import pytest

from .contract.public import PATIENCE, MakeNode
from .subject import contract


@pytest.mark.clause("E3")
async def test_a_user_without_rights_is_refused(node: MakeNode, topic: str) -> None:
    reader = await node(username="reader", password="s3cr3t", publish_timeout=2 * PATIENCE)
    with pytest.raises(contract.PublishRefusedError, match="401"):
        await reader.publish(topic, "refused")
