from typing import final

@final
class Encoded:
    def __new__(cls, vocab_size: int, block_size: int) -> Encoded: ...
