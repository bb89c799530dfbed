"""The networks, one a file; none of them imports anything of the project outside this folder."""
