import { accessSync, constants, readFileSync } from 'node:fs';
import { checkServerIdentity } from 'node:tls';
import type { ConnectionOptions } from 'node:tls';

/** Where Postgres is and how to trust it. Any other parameter would override settings of the service. */
const PARAMETERS: readonly string[] = [
  'host',
  'port',
  'ssl',
  'sslmode',
  'sslnegotiation',
  'sslrootcert',
  'sslcert',
  'sslkey',
  'target_session_attrs',
];
const FILES = ['sslrootcert', 'sslcert', 'sslkey'] as const;
/** Not `allow` and `prefer`, which fall back to plaintext. */
const TLS_MODES: readonly string[] = ['disable', 'require', 'verify-ca', 'verify-full'];
/** The words of node-postgres for a mode. */
const TLS_WORDS: Readonly<Record<string, string>> = {
  true: 'verify-full',
  1: 'verify-full',
  false: 'disable',
  0: 'disable',
  'no-verify': 'require',
};
/** The authorities that Node trusts, as libpq trusts those of the system. */
const SYSTEM = 'system';
const AUTHORITY = /^(postgres(?:ql)?:\/\/(?:[^/?#]*@)?)([^/?#@]*)(.*)$/s;

/**
 * One URL for each host of a URL, in order: of `postgres://user@one:5432,two:5432/orders`, and of
 * `postgres:///orders?host=one,two&port=5432,5432`.
 */
export function hostUrlsOf(url: string): string[] {
  const [, start = '', hosts = '', rest = ''] = AUTHORITY.exec(url) ?? [];
  if (hosts.includes(',')) return hosts.split(',').map((host) => `${start}${host}${rest}`);
  if (!URL.canParse(url)) return [url];
  const { searchParams } = new URL(url);
  const named = searchParams.get('host')?.split(',') ?? [];
  const ports = searchParams.get('port')?.split(',') ?? [];
  if (named.length < 2) return [url];
  return named.map((host, index) => {
    const one = new URL(url);
    one.searchParams.set('host', host);
    const port = ports[index] ?? ports[0];
    if (port !== undefined) one.searchParams.set('port', port);
    return one.href;
  });
}

/** The user of a URL. Empty if it names none. A wrong percent encoding is literal text, as in node-postgres. */
export function userOf(url: string): string {
  const { username } = new URL(hostUrlsOf(url)[0] ?? url);
  try {
    return decodeURIComponent(username);
  } catch {
    return username;
  }
}

/** Why this is not the URL of a database that the service can use. */
export function databaseUrlProblems(text: string): string[] {
  const [first = text, ...others] = hostUrlsOf(text);
  if (![first, ...others].every(isPostgresUrl)) return ['must be a postgres:// URL'];
  const { searchParams } = new URL(first);
  const problems: string[] = [];
  if ([...searchParams.keys()].some((name) => !PARAMETERS.includes(name))) {
    problems.push(`may hold ${PARAMETERS.join(', ')} in its query, nothing else`);
  }
  if (![first, ...others].every(namesHost)) {
    problems.push('must name a host: postgres://user:password@host:port/database');
  }
  const wanted = searchParams.get('target_session_attrs');
  if (wanted !== null && wanted !== 'read-write' && wanted !== 'primary') {
    problems.push('target_session_attrs must be read-write: the service always needs the primary');
  }
  return [...problems, ...tlsProblems(searchParams)];
}

function isPostgresUrl(url: string): boolean {
  return URL.canParse(url) && /^postgres(ql)?:$/.test(new URL(url).protocol);
}

function namesHost(url: string): boolean {
  const { hostname, searchParams } = new URL(url);
  return hostname !== '' || Boolean(searchParams.get('host'));
}

function tlsProblems(parameters: URLSearchParams): string[] {
  const unreadable = FILES.flatMap((name) => {
    const path = parameters.get(name);
    return path === null || path === SYSTEM || isReadable(path) ? [] : [`${name}=${path}`];
  });
  if (unreadable.length > 0) {
    return unreadable.map((file) => `names a file that cannot be read: ${file}`);
  }
  const mode = tlsModeOf(parameters);
  if (mode !== undefined && !TLS_MODES.includes(mode)) {
    return [`sslmode must be ${TLS_MODES.join(', ')}; others fall back to plaintext`];
  }
  const root = parameters.get('sslrootcert');
  if (mode === 'verify-ca' && root === null) {
    return [
      'sslmode=verify-ca needs sslrootcert: otherwise any certificate that is public would do',
    ];
  }
  if (root === SYSTEM && mode !== 'verify-full') {
    return ['sslrootcert=system needs sslmode=verify-full'];
  }
  if (parameters.has('sslcert') !== parameters.has('sslkey')) {
    return ['sslcert and sslkey must be set together'];
  }
  return [];
}

function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

/** As libpq takes it, but `verify-full` if only a certificate is named. Undefined if the URL says nothing. */
function tlsModeOf(parameters: URLSearchParams): string | undefined {
  const word = parameters.get('ssl');
  const mode = parameters.get('sslmode') ?? (word === null ? null : (TLS_WORDS[word] ?? word));
  if (mode !== null) return mode;
  return FILES.some((name) => parameters.has(name)) ? 'verify-full' : undefined;
}

/** How to connect to one host, as pg takes it. */
export type Connection = Readonly<{
  connectionString: string;
  ssl?: ConnectionOptions | false;
  keepAlive: boolean;
  keepAliveInitialDelayMillis: number;
}>;

/** How to connect to the one host of a URL. Settings of the session follow once it is open. */
export function connectionTo(hostUrl: string): Connection {
  const url = new URL(hostUrl);
  const ssl = tlsOf(url.searchParams);
  // node-postgres has its own meaning of these, and takes them before `ssl`.
  for (const name of ['ssl', 'sslmode', 'target_session_attrs', ...FILES]) {
    url.searchParams.delete(name);
  }
  return {
    connectionString: url.href,
    ...(ssl !== undefined && { ssl }),
    keepAlive: true,
    keepAliveInitialDelayMillis: 5_000,
  };
}

/**
 * What the modes of libpq mean to Node. Files are read at each connection, so they may be replaced. Undefined leaves
 * it to PGSSLMODE.
 */
function tlsOf(given: URLSearchParams): ConnectionOptions | false | undefined {
  const parameters = new URLSearchParams(given); // these are removed
  const mode = tlsModeOf(parameters);
  if (mode === undefined) return undefined;
  if (mode === 'disable') return false;
  const root = parameters.get('sslrootcert');
  return {
    // Without an authority, `require` encrypts and checks nothing.
    rejectUnauthorized: mode !== 'require' || root !== null,
    checkServerIdentity: mode === 'verify-full' ? checkServerIdentity : () => undefined,
    get ca() {
      return contentsOf(root);
    },
    get cert() {
      return contentsOf(parameters.get('sslcert'));
    },
    get key() {
      return contentsOf(parameters.get('sslkey'));
    },
  };
}

function contentsOf(path: string | null): string | undefined {
  return path === null || path === SYSTEM ? undefined : readFileSync(path, 'utf8');
}
