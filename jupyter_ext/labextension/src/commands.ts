import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Dialog, ICommandPalette, showDialog, showErrorMessage } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ITranslator, type TranslationBundle } from '@jupyterlab/translation';
import { closeIcon, refreshIcon, stopIcon } from '@jupyterlab/ui-components';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { HyperError, words } from './model/api';
import { CommandIDs, DOMAIN, ISandboxes } from './model/tokens';
import { type Action, isAlive, type Sandbox } from './model/types';
import { title } from './words';

/** The sandbox that a command is for: `{id}`, else that of the notebook in front. */
export function sandboxOf(
  args: ReadonlyPartialJSONObject,
  model: ISandboxes,
  notebooks: INotebookTracker | null
): Sandbox | undefined {
  if (typeof args.id === 'string') {
    return model.byId(args.id);
  }
  const kernel = notebooks?.currentWidget?.sessionContext.session?.kernel;
  return kernel ? model.byKernel(kernel.id) : undefined;
}

/** Interrupt, restart, stop: on the sandbox of the notebook in front, or on any. */
export const commands: JupyterFrontEndPlugin<void> = {
  id: 'hyper-kernel:commands',
  description: 'Commands that act on a sandbox.',
  autoStart: true,
  requires: [ISandboxes, ITranslator],
  optional: [INotebookTracker, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    model: ISandboxes,
    translator: ITranslator,
    notebooks: INotebookTracker | null,
    palette: ICommandPalette | null
  ) => {
    const trans = translator.load(DOMAIN);
    const find = (args: ReadonlyPartialJSONObject) => sandboxOf(args, model, notebooks);
    const does = (action: Action, question: ((sandbox: Sandbox) => Question) | null) => ({
      describedBy: BY_ID,
      isEnabled: (args: ReadonlyPartialJSONObject) => isActive(find(args), action),
      execute: async (args: ReadonlyPartialJSONObject) => {
        const sandbox = find(args);
        if (!sandbox || (question && !(await isSure(question(sandbox), trans)))) {
          return;
        }
        try {
          await model.act(sandbox.id, action);
        } catch (error) {
          const isGone = error instanceof HyperError && error.kind === 'NotFoundError';
          await showErrorMessage(
            trans.__('%1: this did not work', title(sandbox)),
            isGone ? trans.__('The sandbox has been removed meanwhile.') : words(error)
          );
        }
      }
    });
    app.commands.addCommand(CommandIDs.interrupt, {
      label: trans.__('Interrupt Sandbox'),
      icon: stopIcon,
      ...does('interrupt', null)
    });
    app.commands.addCommand(CommandIDs.restart, {
      label: trans.__('Restart Sandbox…'),
      icon: refreshIcon,
      ...does('restart', sandbox => ({
        title: trans.__('Restart %1?', title(sandbox)),
        body: trans.__('It starts in a fresh machine. All variables are lost; files that it wrote stay.'),
        yes: trans.__('Restart')
      }))
    });
    app.commands.addCommand(CommandIDs.stop, {
      label: trans.__('Stop Sandbox…'),
      icon: closeIcon,
      ...does('stop', sandbox => ({
        title: trans.__('Stop %1?', title(sandbox)),
        body: trans.__('All variables are lost, and files that it changed and that you have not taken over.'),
        yes: trans.__('Stop')
      }))
    });
    app.commands.addCommand(CommandIDs.openNotebook, {
      label: trans.__('Open the Sandbox’s Notebook'),
      describedBy: BY_ID,
      isEnabled: args => !!find(args)?.kernel?.path,
      execute: args => app.commands.execute('docmanager:open', { path: find(args)?.kernel?.path ?? '' })
    });
    for (const command of [CommandIDs.interrupt, CommandIDs.restart, CommandIDs.stop]) {
      palette?.addItem({ command, category: trans.__('Sandbox') });
    }
  }
};

/** What commands that act on a sandbox take. */
export const BY_ID = {
  args: {
    type: 'object',
    additionalProperties: false,
    properties: {
      id: { type: 'string', description: 'The sandbox; left out: that of the notebook in front' }
    }
  }
} as const;

interface Question {
  title: string;
  body: string;
  yes: string;
}

function isActive(sandbox: Sandbox | undefined, action: Action): boolean {
  return !!sandbox && (isAlive(sandbox) || (action === 'restart' && sandbox.kernel !== null));
}

async function isSure({ title, body, yes }: Question, trans: TranslationBundle): Promise<boolean> {
  const buttons = [Dialog.cancelButton({ label: trans.__('Cancel') }), Dialog.warnButton({ label: yes })];
  return (await showDialog({ title, body, buttons, defaultButton: 0 })).button.accept;
}
