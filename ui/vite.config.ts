import preact from "@preact/preset-vite";
import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // the dashboard works under any path prefix
  plugins: [preact()],
  build: {
    outDir: "../src/penstock/ui/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false, // its helper inserts elements that are not needed here
    assetsInlineLimit: 0, // the security policy allows no data: addresses
    reportCompressedSize: true,
  },
});
