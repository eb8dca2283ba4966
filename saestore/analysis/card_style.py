"""The style sheet of a card, and the page around it when it is a file."""

# Light or dark as the reader prefers, from 400 pixels of width.
PAGE = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark"><title>{title}</title></head>\n'
    '<body style="margin: 0">\n{body}\n</body></html>\n'
)

STYLE = """
.saestore-card { --ink: #1d2021; --soft: #5b6063; --line: #d9dcde; --ground: #fff; --field: #f4f5f6;
  color: var(--ink); background: var(--ground); font: 15px/1.5 system-ui, sans-serif; max-width: 1500px;
  margin: 0 auto; padding: 16px; box-sizing: border-box; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) {
  .saestore-card { --ink: #e4e6e7; --soft: #a1a7ab; --line: #3a3f42; --ground: #16191a; --field: #202425 }
  body:has(> .saestore-card) { background: #16191a } }
.saestore-card h1 { font-size: 1.5em; margin: 0 } .saestore-card h1 em { color: var(--soft); font-style: normal }
.saestore-card h2 { font-size: 1.05em; margin: 0 0 .4em } .saestore-card h3 { font-size: .95em; margin: .9em 0 .4em }
.saestore-card small, .saestore-card .path, .saestore-card figcaption, .saestore-card .axis, .saestore-card .note
  { color: var(--soft); font-weight: normal; font-size: .85em } .saestore-card .path { margin: 0 0 .6em }
.saestore-card .explore { color: inherit } body > .saestore-card .explore { display: none }
.saestore-card section { border-top: 1px solid var(--line); padding: .7em 0; min-width: 0 }
.saestore-card .grid
  { display: grid; gap: 0 2em; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)) }
.saestore-card table { border-collapse: collapse; width: 100%; background: none; color: inherit; font-size: .9em }
.saestore-card th, .saestore-card td { border: 0; border-bottom: 1px solid var(--line); padding: .2em .5em .2em 0;
  text-align: right; background: none; color: inherit } .saestore-card th { font-weight: 600 }
.saestore-card th, .saestore-card td + td { overflow-wrap: normal }
.saestore-card .bars { width: 100%; height: 120px; display: block; border-bottom: 1px solid var(--soft) }
.saestore-card .axis { display: flex; justify-content: space-between; gap: 1em }
.saestore-card .images
  { display: grid; gap: .7em; grid-template-columns: repeat(auto-fill, minmax(min(46%, 150px), 1fr)) }
.saestore-card .texts { display: grid; gap: .4em .7em;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)) }
.saestore-card figure { margin: 0; min-width: 0 }
.saestore-card .texts figure { background: var(--field); border-radius: 4px; padding: .4em .7em }
.saestore-card .texts p { margin: 0; white-space: pre-wrap }
.saestore-card .image
  { position: relative; overflow: hidden; border-radius: 4px; background: var(--field); line-height: 0 }
.saestore-card .image.missing { aspect-ratio: 1 } .saestore-card .image img { width: 100%; display: block; margin: 0 }
.saestore-card .image svg { position: absolute }
.saestore-card .window { width: 100%; height: 48px; background: var(--field) }
.saestore-card .frame { fill: none; stroke-width: .3; stroke: #000 }
.saestore-card .pale { stroke-width: .12; stroke: #fff }
"""
