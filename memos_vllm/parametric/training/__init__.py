"""Training of adapters: the job folder, the training process, its lessons and its gate."""
