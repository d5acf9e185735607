"""The server manager's example (compatibility contract, section 6), only the import changed."""

import asyncio

from mesh_sdk import Manager


async def main() -> None:
    manager = Manager(
        {"max_concurrent_operations": 100, "connection_timeout": 30, "enable_metrics": True}
    )
    await manager.initialize()

    server_id = await manager.deploy_server(
        {"name": "docker", "type": "docker", "port": 8080, "max_connections": 50}
    )
    result = await manager.execute_tool("docker", "list_containers", {"all": True})
    print(result.structured)

    results = await asyncio.gather(
        manager.execute_tool("docker", "list_containers", {"all": True}),
        manager.execute_tool("docker", "list_images", {}),
    )
    print(len(results))

    health = await manager.get_server_health(server_id)
    print(health["status"])

    await manager.shutdown_server(server_id)
    await manager.shutdown()


asyncio.run(main())
