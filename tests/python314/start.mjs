// Starts Python with the directories of this machine in it, and pytest inside: see __main__.py.
import path from "node:path";

const settings = JSON.parse(process.argv[2]);
const { loadPyodide } = await import(settings.pyodide);
const python = await loadPyodide();

const here = path.join(settings.repository, "tests", "python314");
for (const directory of new Set([settings.repository, ...settings.packages])) {
  python.FS.mkdirTree(directory);
  python.mountNodeFS(directory, directory);
}
python.globals.set("settings_json", JSON.stringify({ ...settings, here }));
const exitCode = python.runPython(`
import json, os, sys

settings = json.loads(settings_json)
sys.path[:0] = [settings["here"], *settings["packages"]]
sys.dont_write_bytecode = True
os.chdir(settings["repository"])

import inside

inside.run(settings["arguments"])
`);
// At once: Pyodide has left calls for its own event loop, which does not run here.
process.exit(exitCode);
