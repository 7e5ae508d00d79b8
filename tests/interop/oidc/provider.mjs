// The OpenID provider of the tests: oidc-provider as it comes, with its own pages to log in.
//
// Reads one JSON object on standard input: {port, callbacks, accounts}, says {"ready": true}, and
// then obeys one command a line: {"skew_s": N} shifts its clock, {"rotate": true} signs with another
// key from now on, {"id_token_life_s": N} shortens its tokens' lives, {"accounts": {…}} changes
// what it says of people.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

// Where npm has put it: its entry file.
const { default: Provider } = await import(pathToFileURL(process.argv[2]).href);

const realNow = Date.now;
let accounts = {};
let port;
let lifeS = 3600;
let handler;

function provider(callbacks) {
  const key = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
  const made = new Provider(`http://127.0.0.1:${port}`, {
    jwks: { keys: [{ ...key, use: 'sig', alg: 'RS256', kid: `key-${realNow()}-${Math.random()}` }] },
    clients: [
      { client_id: 'warren', client_secret: 's3cret/with+odd:chars', redirect_uris: callbacks },
      {
        client_id: 'public', token_endpoint_auth_method: 'none', redirect_uris: callbacks,
      },
    ],
    cookies: { keys: ['a key of the tests'] },
    claims: {
      email: ['email', 'email_verified'],
      profile: ['name', 'preferred_username'],
      groups: ['groups'],
    },
    scopes: ['openid', 'profile', 'email', 'groups'],
    ttl: { IdToken: () => lifeS },
    pkce: { required: () => true },
    async findAccount(ctx, id) {
      return { accountId: id, claims: async () => ({ sub: id, ...accounts[id] }) };
    },
  });
  handler = made.callback();
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const first = JSON.parse((await lines.next()).value);
({ port, accounts } = first);
provider(first.callbacks);
const server = createServer((request, answer) => handler(request, answer));
server.listen(port, '127.0.0.1', () => console.log('{"ready": true}'));

for await (const line of lines) {
  const command = JSON.parse(line);
  if ('skew_s' in command) Date.now = () => realNow() + command.skew_s * 1000;
  if ('id_token_life_s' in command) lifeS = command.id_token_life_s;
  if (command.rotate) provider(first.callbacks);
  if (command.accounts) accounts = command.accounts;
  console.log('{"done": true}');
}
process.exit(0);
