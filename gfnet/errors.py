"""What a caller can get wrong. Every message says what was given, what is allowed and what to do."""


class GFNetError(ValueError):
    """An argument or an input that a Global Filter Network cannot use."""
