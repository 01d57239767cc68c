import { defineConfig } from 'vitest/config';

/** This check needs Docker and takes minutes, so it is not part of `npm test`. */
export default defineConfig({
  test: {
    include: ['test/compose/*.check.ts'],
    testTimeout: 180_000,
    hookTimeout: 600_000,
  },
});
