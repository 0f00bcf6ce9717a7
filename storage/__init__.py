"""What lasts: artifacts, activations, tables and checkpoints. Knows no model, no maths and no Prefect."""
