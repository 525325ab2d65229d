"""A second test paper: experiments on data that come and go, and one that interrupts itself."""
