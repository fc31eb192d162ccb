"""The commands of the command line, one module each; nothing else in ``amal`` imports callbacks or datamodules."""
