import { settingNames } from '#src/config.ts';

/** Java encodes file names as the locale says. The locale `C` mangles every name that is not ASCII. */
const LC_ALL = process.platform === 'darwin' ? 'en_US.UTF-8' : 'C.UTF-8';
const SERVER_VARIABLES = ['PATH', 'HOME', 'TMPDIR'];
/** The settings of the service, and how Node runs, prints and trusts. */
const SERVICE_VARIABLES: ReadonlySet<string> = new Set([
  ...SERVER_VARIABLES,
  ...'USER LOGNAME TZ LANG LC_ALL TERM COLORTERM NO_COLOR FORCE_COLOR'.split(' '),
  ...'NODE_ENV NODE_OPTIONS NODE_EXTRA_CA_CERTS NODE_USE_ENV_PROXY'.split(' '),
  ...'SSL_CERT_FILE SSL_CERT_DIR http_proxy https_proxy HTTP_PROXY HTTPS_PROXY'.split(' '),
  ...settingNames,
]);
/** They change every Java program. */
const JAVA_VARIABLES = /^(JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|JDK_JAVA_OPTIONS|CLASSPATH|LD_.*)$/;
const POSTGRES_VARIABLES = /^PG[A-Z]/;
const LOCAL_HOSTS = 'localhost,127.0.0.1,::1,[::1]';

/**
 * The environment of a server that `npm start` brings up. It is built, not inherited: no variable of the
 * shell may change where the server listens, where it writes or which options it has.
 */
export function serverEnvironment(): NodeJS.ProcessEnv {
  return { ...pick((name) => SERVER_VARIABLES.includes(name)), LC_ALL };
}

/** The environment in which to look for Java. A version manager may need variables of its own. */
export function javaLookupEnvironment(): NodeJS.ProcessEnv {
  return { ...pick((name) => !JAVA_VARIABLES.test(name)), LC_ALL };
}

/** The environment of Maven: the user's own (proxy, mirror, trust), with file names in UTF-8. */
export function mavenEnvironment(): NodeJS.ProcessEnv {
  return { ...process.env, LC_ALL };
}

/** The environment of the service. It never reaches a server on this machine through a proxy. */
export function serviceEnvironment(): NodeJS.ProcessEnv {
  const given = process.env['NO_PROXY'] ?? process.env['no_proxy'];
  const noProxy = given ? `${given},${LOCAL_HOSTS}` : LOCAL_HOSTS;
  return { ...pick((name) => SERVICE_VARIABLES.has(name)), NO_PROXY: noProxy, no_proxy: noProxy };
}

/**
 * Removes the variables that node-postgres reads (`PGSSLMODE`, `PGOPTIONS`, ...) from the environment of this
 * process. They are about other servers than those of this checkout, and apply to whatever a URL leaves out.
 * @returns what was removed
 */
export function removePostgresVariables(): NodeJS.ProcessEnv {
  const removed = pick((name) => POSTGRES_VARIABLES.test(name));
  for (const name of Object.keys(removed)) delete process.env[name];
  return removed;
}

function pick(isWanted: (name: string) => boolean): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => isWanted(name)));
}
