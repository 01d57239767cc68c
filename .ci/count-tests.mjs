/**
 * Prints what one run of vitest counted: "N passed, N failed". Runs on Node 20, with no package.
 * Usage: node .ci/count-tests.mjs <vitest's JSON report> <the run's exit code>
 *
 * A test that did not run is a failed one; so is a file that fails outside of its tests, and a run that
 * fails although each of its tests passed (a lint error, an unhandled rejection, a time-out).
 */
import { readFileSync } from 'node:fs';

const [reportFile, exitCode] = process.argv.slice(2);
const files = readReport();
const tests = files.flatMap(({ assertionResults }) => assertionResults);
const passed = tests.filter(({ status }) => status === 'passed').length;
const brokenFiles = files.filter(
  ({ status, assertionResults }) =>
    status === 'failed' && assertionResults.every((test) => test.status === 'passed'),
).length;
const failed = tests.length - passed + brokenFiles;
const failedAnyway = failed === 0 && (exitCode !== '0' || passed === 0);

process.stdout.write(`${passed} passed, ${failed + Number(failedAnyway)} failed\n`);

function readReport() {
  try {
    return JSON.parse(readFileSync(reportFile, 'utf8')).testResults;
  } catch {
    return [];
  }
}
