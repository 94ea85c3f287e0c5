"""Make one system call of a running server fail, each that it makes in turn; what suffers?"""
