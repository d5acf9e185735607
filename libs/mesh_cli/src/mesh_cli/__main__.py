"""``python -m mesh_cli``: for installations without the ``mesh`` script on the path."""

from mesh_cli.main import main

main()
