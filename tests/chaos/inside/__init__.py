"""What the runs inside this process share: a clock that runs fast, a broker and a store that can be disturbed."""
