// The Node side of a guest: waits for its job on descriptor 3, then becomes the submitted program.
// The list it reads: streamed or empty, entrypoint, number of arguments, arguments, then names and values of the
// environment. Its wire is described in this package's __init__.py.
'use strict';

const fs = require('node:fs');
fs.writeSync(2, '\x06'); // READY

function readExactly(size) {
  const buffer = Buffer.alloc(size);
  let at = 0;
  while (at < size) {
    const got = fs.readSync(3, buffer, at, size - at, null);
    if (got === 0) process.exit(0); // nobody has a job for this guest
    at += got;
  }
  return buffer;
}

// Made on first use, for two milliseconds; here nobody waits for it yet.
void process.stdout;
void process.stderr;

const data = readExactly(readExactly(4).readUInt32BE(0));
const items = [];
for (let at = 0; at < data.length; ) {
  const start = at + 4;
  at = start + data.readUInt32BE(at);
  items.push(data.subarray(start, at).toString('utf8'));
}
fs.closeSync(3);

const [, entry, count, ...rest] = items;
for (const name of Object.keys(process.env)) delete process.env[name];
for (let i = Number(count); i < rest.length; i += 2) process.env[rest[i]] = rest[i + 1];
process.argv = [process.argv[0], entry, ...rest.slice(0, Number(count))];
process.chdir('/workspace');
require('node:module').runMain();
