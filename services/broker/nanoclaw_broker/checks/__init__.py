"""The checks of a call, one function each: facts and the capability in, a decision out where it decides."""
