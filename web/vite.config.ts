import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

// `npm run dev` shows a real controller, GANTRY_URL. Its certificate is of its own CA, so it is not checked here; and it
// takes changes only from pages of its own origin, which is therefore claimed.
const controller = process.env.GANTRY_URL ?? 'https://10.64.0.250:7443';
const proxied = {
  target: controller,
  secure: false,
  changeOrigin: true,
  ws: true,
  headers: { Origin: controller },
};

export default defineConfig({
  plugins: [svelte()],
  resolve: {
    alias: { $lib: '/src/lib', $features: '/src/features' },
    // Component tests mount components as a browser does.
    ...(process.env.VITEST ? { conditions: ['browser'] } : {}),
  },
  server: { proxy: { '/v1': proxied } },
  preview: { proxy: { '/v1': proxied } },
  build: {
    target: 'es2022',
    // data: URLs would need a wider content security policy.
    assetsInlineLimit: 0,
    cssCodeSplit: true,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 600,
    manifest: true,
    // scripts/clear.mjs does that: one file in there is not the build's.
    emptyOutDir: false,
  },
  test: {
    environment: 'jsdom',
    // Machines that do other things too are slow; a test that hangs still ends.
    testTimeout: 30_000,
    include: ['tests/unit/**/*.test.ts'],
  },
});
