"""keeptune adapts a pretrained language model to a task and proves what the model kept."""
