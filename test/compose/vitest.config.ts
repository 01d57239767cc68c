import { defineConfig } from 'vitest/config';

/** The compose file needs Docker and its own minutes, so its check is not one of `npm test`. */
export default defineConfig({
  test: {
    include: ['test/compose/*.check.ts'],
    testTimeout: 180_000,
    hookTimeout: 600_000,
  },
});
