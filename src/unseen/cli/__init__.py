"""The command line: arguments and screens; what it does is done by the layers below."""
