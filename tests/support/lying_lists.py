"""Lists that give another number of items than they say."""


class Lying(list):
    """A list that says `length`. given: how many times iteration gives its items."""

    def __init__(self, items, length, given=1):
        super().__init__(items)
        self.length, self.given = length, given

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(self[:] * self.given)
