"""A parser that accepts well-formed HTML alone."""
from html.parser import HTMLParser


class WellFormed(HTMLParser):
    """Fails on an element that is not closed in its turn; collects the text."""

    VOID = {"meta", "input", "br", "link"}

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.tags = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)
