"""The explorer: pages about a store's sets, features, items and concepts, served, in a notebook, or as a folder.

`saestore.web.explorer.Explorer` answers a request with a page or with its JSON twin. The doors to it are a server on
the loopback interface and a notebook widget (`saestore.web.doors`), and a folder of pages (`saestore.web.folder`).
"""
