"""python -m data.synthetic: writes a generated data set; see `data.synthetic.sequences`."""

from data.synthetic.sequences import main

if __name__ == "__main__":
    main()
