"""`python -m glmja.demo`: runs the demo."""

from glmja.demo.pipeline import main

if __name__ == "__main__":
    main()
