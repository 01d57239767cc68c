import { settingNames } from '#src/config.ts';

type Environment = Readonly<NodeJS.ProcessEnv>;

/** Java encodes file names as the locale says: under `C` it mangles all that is not ASCII. */
const UTF8_LOCALE = process.platform === 'darwin' ? 'en_US.UTF-8' : 'C.UTF-8';
const SERVER_VARIABLES = listOf('PATH HOME TMPDIR');
/** What a developer may want to tell the service beside its settings: how Node runs, prints and trusts. */
const SERVICE_VARIABLES: ReadonlySet<string> = new Set([
  ...SERVER_VARIABLES,
  ...listOf('USER LOGNAME TZ LANG LC_ALL TERM COLORTERM NO_COLOR FORCE_COLOR'),
  ...listOf(
    'NODE_ENV NODE_OPTIONS NODE_EXTRA_CA_CERTS NODE_USE_ENV_PROXY SSL_CERT_FILE SSL_CERT_DIR',
  ),
  ...listOf('http_proxy https_proxy HTTP_PROXY HTTPS_PROXY'),
  ...settingNames,
]);
/** They change any Java program that starts, whoever starts it. */
const JAVA_VARIABLES = /^(JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|JDK_JAVA_OPTIONS|CLASSPATH|LD_.*)$/;
const POSTGRES_VARIABLES = /^PG[A-Z]/;
const LOCAL_HOSTS = 'localhost,127.0.0.1,::1,[::1]';

/**
 * The environment of a server that `npm start` brings up. It is built, not inherited: no variable of the
 * shell may change where the server listens, where it writes or which options it has.
 */
export function serverEnvironment(env: Environment = process.env): NodeJS.ProcessEnv {
  return { ...pick(env, (name) => SERVER_VARIABLES.includes(name)), LC_ALL: UTF8_LOCALE };
}

/** The environment to look for Java with: a version manager may need any variable of its own. */
export function javaLookupEnvironment(env: Environment = process.env): NodeJS.ProcessEnv {
  return { ...pick(env, (name) => !JAVA_VARIABLES.test(name)), LC_ALL: UTF8_LOCALE };
}

/** The environment of Maven: the user's own (proxy, mirror, trust), with file names in UTF-8. */
export function mavenEnvironment(env: Environment = process.env): NodeJS.ProcessEnv {
  return { ...env, LC_ALL: UTF8_LOCALE };
}

/**
 * The environment of the service: its settings, and how Node runs. What it reaches on this machine is
 * never reached through a proxy.
 */
export function serviceEnvironment(env: Environment = process.env): NodeJS.ProcessEnv {
  const noProxy = [env['NO_PROXY'] ?? env['no_proxy'], LOCAL_HOSTS].filter(Boolean).join(',');
  return {
    ...pick(env, (name) => SERVICE_VARIABLES.has(name)),
    NO_PROXY: noProxy,
    no_proxy: noProxy,
  };
}

/**
 * Removes the variables that node-postgres reads (`PGSSLMODE`, `PGOPTIONS`, ...): they are about other
 * servers than those of this checkout, and would go before what a URL leaves out.
 * @returns what was removed
 */
export function removePostgresVariables(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const removed = pick(env, (name) => POSTGRES_VARIABLES.test(name));
  for (const name of Object.keys(removed)) delete env[name];
  return removed;
}

function pick(env: Environment, isWanted: (name: string) => boolean): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => isWanted(name)));
}

function listOf(names: string): readonly string[] {
  return names.split(' ');
}
