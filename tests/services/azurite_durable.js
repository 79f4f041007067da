// Why: Azurite writes its metadata every five seconds, so a kill -9 would lose what it has acknowledged, and every fault test would blame the sender.
// Loaded before it (node --require), this holds the answer to a write back until the metadata is in its file. Never changes an answer.
"use strict";
const http = require("http");
const Loki = require("module").createRequire(process.argv[1])("lokijs");

const WRITES = new Set(["PUT", "POST", "DELETE", "PATCH"]);
const databases = new Set();

// An old file is loaded, a new one saved at once: both say which databases there are.
for (const first of ["loadDatabase", "saveDatabase"]) {
  const original = Loki.prototype[first];
  Loki.prototype[first] = function (...words) {
    databases.add(this);
    return original.apply(this, words);
  };
}

const saved = (database) => new Promise((done, failed) => database.saveDatabase((fault) => (fault ? failed(fault) : done())));

const end = http.ServerResponse.prototype.end;
http.ServerResponse.prototype.end = function (...words) {
  if (!WRITES.has(this.req.method) || this.statusCode >= 300) return end.apply(this, words);
  Promise.all([...databases].map(saved)).then(
    () => end.apply(this, words),
    (fault) => {
      console.error(`not saved: ${fault}`);
      this.destroy();
    },
  );
  return this;
};
