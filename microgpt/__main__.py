"""`python -m microgpt`: which commands there are."""
import sys


def main() -> int:
    """Run the command; returns the exit status."""
    print(
        "usage: python -m microgpt.train    train on names or on your own text, and sample\n"
        "       python -m microgpt.sample   sample from a saved model\n"
        "       python -m microgpt.eval     measure how well a saved model predicts a text\n"
        "       python -m microgpt.report   show a logged run, or compare two, as one page\n"
        "       python -m microgpt.info     what was built and what runs\n"
        "Each takes --help."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
