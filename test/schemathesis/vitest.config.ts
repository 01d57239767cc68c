import { defineConfig } from 'vitest/config';

/** This check needs Python and takes minutes, so it is not part of `npm test`. */
export default defineConfig({
  test: {
    include: ['test/schemathesis/*.check.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    testTimeout: 300_000,
    hookTimeout: 300_000,
  },
});
